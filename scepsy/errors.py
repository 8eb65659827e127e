"""Every error Scepsy raises on purpose, and the exit code the command line gives it.

    ScepsyError
    ├── InputError        2   a file, a field or an option is wrong: names it, its value and the remedy
    ├── Infeasible        3   no plan meets the target: names the LLM or the resource that binds, and by how much
    ├── SimulationError   4   a simulation that cannot go on (a stall, a call that never fits): numbers in the message
    └── BackendError      4   an engine, a gateway or a cluster did not do what it was asked

Constructors take positional arguments only: SimPy rebuilds exceptions as ``type(e)(*e.args)``.
"""


class ScepsyError(Exception):
    """Base of the tree. ``exit_code`` is what the command line returns."""

    exit_code = 1


class InputError(ScepsyError):
    """Bad input: ``InputError("trace.jsonl line 3: calls[2].input_tokens is -5: must be >= 0")``."""

    exit_code = 2


class Infeasible(ScepsyError):
    """No allocation or placement meets the request. The message says what binds and by how much."""

    exit_code = 3


class SimulationError(ScepsyError):
    """The simulated system cannot proceed; never raised for a merely slow one."""

    exit_code = 4


class BackendError(ScepsyError):
    """A real engine, gateway or cluster failed; the message names it and the remedy."""

    exit_code = 4
