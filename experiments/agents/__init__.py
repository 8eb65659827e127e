"""Agent programs as people write them: async code against the OpenAI API, told nothing but a base_url.

Each works with any model. With random weights no answer means anything, so wherever a program would decide by what a model
said, it decides by a seeded draw instead; calls, lengths, order and concurrency stay those of the real thing.
"""
