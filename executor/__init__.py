"""Real engines: gateway, recording, replay, profiler, local host, Kubernetes."""
