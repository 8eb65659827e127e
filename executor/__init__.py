"""Real engines: gateway, recording, replay, profiler, local host, Kubernetes."""

from scepsy.crash import guard_programs

guard_programs("executor")
