"""What a served model is, read from its files: weights by precision, KV cache by kind of layer, experts, context limit."""
