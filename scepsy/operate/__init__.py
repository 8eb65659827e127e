"""The loop closed: is the load still the one that was planned for, and is another plan worth the switch?

Frozen values in, a decision out; nothing here reads a clock, a file or a cluster. The simulator's policy and the executor's
loop call the same ``controller.step``; planning and simulating are handed in from ``scepsy.api``.
"""
