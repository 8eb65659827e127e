"""Instances onto GPUs."""
