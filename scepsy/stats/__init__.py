"""What a trace says: use of each LLM, token distributions, shares of LLM time and how stable they are."""
