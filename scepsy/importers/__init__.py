"""Importers: foreign recordings to traces. One callable per format, all with one signature."""
