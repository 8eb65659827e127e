"""An OpenAI-compatible gateway: routes calls to engine instances, and records them without keeping what they say."""
