"""Named experiments: config to one tidy table."""
