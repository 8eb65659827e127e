"""The discrete-event simulator: one of the two implementations of ``Backend``."""
