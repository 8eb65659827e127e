"""What one engine instance of an LLM does with its work: step model, share law, TP law, memory, curves."""
