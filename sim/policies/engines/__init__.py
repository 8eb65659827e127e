"""Whole engines that serve several LLMs, and dataflow engines, in place of per-LLM instances."""
