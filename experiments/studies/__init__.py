"""One module per experiment; each has a ``STUDY``. ``experiments.catalogue`` lists them."""
