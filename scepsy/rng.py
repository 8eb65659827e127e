"""Named random streams: the same (seed, names) gives the same numbers in any process, whatever else was drawn.

Every planner and every system must see the same arrivals and the same sampled runs, so randomness is
never shared: each use asks for its own stream by name.
"""

import hashlib

import numpy as np


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """Return the generator of the stream called ``names`` under ``seed``.

    The names are hashed with SHA-256 (Python's ``hash`` differs from process to process), and the digest
    seeds a PCG64.

    >>> float(stream(1, "arrivals", "rag").random()) == float(stream(1, "arrivals", "rag").random())
    True
    >>> float(stream(1, "arrivals").random()) == float(stream(1, "lengths").random())
    False
    """
    text = "\x1f".join([str(int(seed)), *(str(name) for name in names)])
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))
