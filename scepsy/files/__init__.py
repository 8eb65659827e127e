"""Files at the edge: versioned, strict, one clear error each; JSON Schemas."""
