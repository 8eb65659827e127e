"""Replays that profile an LLM: one curve point, whole curves, and sweeps over many processes."""
