"""Policies that act on a running simulated cluster."""
