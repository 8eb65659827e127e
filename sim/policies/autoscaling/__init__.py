"""Policies that start and drain instances while the load runs."""
