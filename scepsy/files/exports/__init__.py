"""Traces in formats that other tools replay or show: one module per format, one line in ``registry.EXPORTERS``."""
