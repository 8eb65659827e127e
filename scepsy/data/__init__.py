"""Built-in data: GPU types, models, laws, measured step models, cluster presets; each entry with its source."""
