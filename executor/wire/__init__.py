"""The OpenAI protocol as bytes: request bodies and server-sent events, read without being changed."""
