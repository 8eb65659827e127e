"""A plan on this host: engines as processes on GPUs (shared by MPS) or on CPU cores (shared by cgroup), behind a gateway."""
