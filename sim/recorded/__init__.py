"""Runs of real engines: read, replay and fit them, and compare the replay with what was recorded."""
