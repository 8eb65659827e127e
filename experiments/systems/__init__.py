"""The systems that are compared: how each decides and how it runs."""
