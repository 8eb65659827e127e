"""Real traces in other formats, read into ``Trace``."""
