"""Traces drawn from published distributions, seeded."""
