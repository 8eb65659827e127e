"""Latency and throughput of an allocation, without simulating it."""
