"""The only package that speaks to Kubernetes: discovery, apply, switch, delete, status, experiments."""
