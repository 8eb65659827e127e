"""Named experiments: config to one tidy table."""

from scepsy.crash import guard_programs

guard_programs("experiments")
