"""``scepsy operate``: the controller (``scepsy.operate``) beside a running deployment, in a process of its own.

It reads the gateway's recording as it grows, writes down what it finds, and asks the target to switch. The gateway knows
nothing of it, so nothing that happens here can hold up a call.
"""
