"""Combinations of options that were proved not to pack, each cut down to what makes it so, so that one proof rules out many."""

from collections.abc import Sequence

import numpy as np

from scepsy.place.exact import pack_exactly
from scepsy.place.hierarchical import ClusterLayout, Placement
from scepsy.plans import Allocation
from scepsy.predictors.aggregate import Integers

PROOF_TIME_UNITS = 0.04
"""Deterministic time of one proof: many times what 16 GPUs take, and little enough to give up on large clusters."""
FAILURES_BEFORE_CORES = 3
"""Allocations that fail to pack before their cores are looked for."""


class NoGoods:
    """Infeasible cores. An allocation that has at least as much of everything in a core cannot pack either."""

    def __init__(self, where: ClusterLayout, caps: dict[str, int], gpu_types: tuple[str, ...], proofs: int) -> None:
        self._where, self._caps, self._types = where, caps, gpu_types
        self._cores: list[Integers] = []
        self._stack: Integers | None = None
        self._failures = 0
        self.proofs_left = proofs
        """CP-SAT calls that may still be made."""

    def excludes(self, allocations: Sequence[Allocation]) -> bool:
        """Whether a known core shows that these do not pack."""
        if not self._cores:
            return False
        if self._stack is None:
            self._stack = np.stack(self._cores)
        mine = self._shape(allocations)
        enough = (mine[None, :, :3] >= self._stack[:, :, :3]).all(axis=2)
        absent = self._stack[:, :, 2] == 0
        right_type = mine[None, :, 3] == self._stack[:, :, 3]
        return bool((absent | (enough & right_type)).all(axis=1).any())

    def decide(self, allocations: Sequence[Allocation]) -> tuple[Placement | None, bool]:
        """Pack by CP-SAT: (placement or None, whether the answer is certain). Learns the core of what does not pack."""
        if self.proofs_left <= 0:
            return None, False
        placement, certain = self._solve(allocations)
        if placement is None and certain:
            self._failures += 1
            if self._failures > FAILURES_BEFORE_CORES:
                self._learn(allocations)
            else:  # cutting it down costs a proof per LLM: not worth it for the first few
                self._keep(self._shape(allocations))
        return placement, certain

    def _solve(self, allocations: Sequence[Allocation]) -> tuple[Placement | None, bool]:
        self.proofs_left -= 1
        packing = pack_exactly(self._where, allocations, caps=self._caps, effort=PROOF_TIME_UNITS, minimise=False)
        return packing.placement, packing.status != "unknown"

    def _learn(self, allocations: Sequence[Allocation]) -> None:
        core = list(allocations)
        for allocation in sorted(allocations, key=lambda a: (a.gpu_pct, a.llm)):
            without = [a for a in core if a.llm != allocation.llm]
            if not without or self.proofs_left <= 0:
                break
            placement, certain = self._solve(without)
            if placement is None and certain:
                core = without
        kept = {a.llm for a in core}
        shape = self._shape(allocations)
        shape[[a.llm not in kept for a in allocations]] = 0
        self._keep(shape)

    def _keep(self, core: Integers) -> None:
        self._cores.append(core)
        self._stack = None

    def _shape(self, allocations: Sequence[Allocation]) -> Integers:
        rows = [(a.share_pct, a.tensor_parallel, a.replicas, self._types.index(a.gpu_type)) for a in allocations]
        return np.array(rows, dtype=np.int64)
