"""Files: one module per format, all strict and versioned, written aside and renamed, read with one line per error."""
