"""Readers of config.json, one module per kind of architecture; ``models.registry`` says which model_type goes where."""
