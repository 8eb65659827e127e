"""Peak memory of a process of its own, for tests of bounds."""

PEAK_KIB = "int(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
"""Expression for a child process. ``ru_maxrss`` would count what its parent had used before the child was started."""
