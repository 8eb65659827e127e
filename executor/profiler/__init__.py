"""Measuring instances: the calls of a trace replayed against one engine at rising rates, kept as run folders."""
