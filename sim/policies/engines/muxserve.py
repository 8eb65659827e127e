"""MuxServe's run time: the LLMs of a mesh share its SMs in space and time.

Prefills come first, one at a time per mesh, the LLMs in turn, asking for all SMs; every LLM decodes on at its share beside
them, SMs that placement gave to nobody divided in proportion. A job gets what it asks for, scaled down in proportion when all
LLMs with work ask for more than 100 %, as MPS does it. That is decided when a job starts.

Shares of jobs that started at different times can still add up to more than there is. So each job is also a promise to the
mesh's GPUs under the law that every system here obeys (``sim.engine.budget``): it takes ``share * duration`` of SM time, and
ends as soon as the GPUs could have done that beside everything promised before. In no interval is more SM time used than the
interval has. Where shares add up to 100 % or less, nothing is delayed.

KV blocks are one pool per mesh divided by quotas that move while it runs: an LLM at 90 % of its quota takes blocks, a tenth of
their quota each as far as they are free, from the LLMs below 90 %. Calls reserve their final length. ``policy="fcfs"`` is
the paper's own comparison: one job at a time on all SMs, the mesh's calls in order of arrival.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import fsum
from typing import Any, Literal

from scepsy.backend import Workload
from scepsy.errors import SimulationError
from scepsy.profile.model import ProfileSet
from scepsy.profile.share import ContentionLaw, ShareLaw
from scepsy.records import Records
from sim.engine.budget import Promise, earliest_end, worked_off
from sim.engine.clock import SCHEDULE, STEP_END, Kernel, ticks
from sim.engine.request import Request
from sim.policies.engines.muxserve_placement import Estimator, Mesh
from sim.policies.engines.pool import PooledLlm, PrefixStore, cached_tokens, replay_pool

Policy = Literal["adbs", "fcfs"]
FULL_PCT = 90
TAKE_PCT = 10


@dataclass(frozen=True)
class SharingLaws:
    """What a share and a neighbour cost."""

    share: ShareLaw
    contention: ContentionLaw


class Seat:
    """One LLM on a mesh, while it runs."""

    def __init__(self, served: PooledLlm, name: str, decode_pct: int, demand: float, quota: float) -> None:
        self.served = served
        self.name = name
        self.decode_pct = decode_pct
        self.bandwidth_demand = demand
        self.quota = quota
        """KV bytes per GPU it may hold."""
        self.held = 0.0
        self.waiting: deque[Request] = deque()
        self.left: dict[Request, int] = {}
        self.prefilling: list[Request] = []
        self.joining: list[Request] = []
        """Prefilled, to decode from the next step on."""
        self.context = 0
        self.decoding = False
        self.kept = PrefixStore(int(quota / max(self.per_token, 1.0)) // served.engine.block_tokens)

    @property
    def per_token(self) -> float:
        """KV bytes per token and GPU."""
        return self.served.llm.kv_bytes_per_token_per_gpu(self.served.tensor_parallel)

    @property
    def outstanding(self) -> int:
        """Calls waiting or running."""
        return len(self.waiting) + self.running

    @property
    def running(self) -> int:
        """Calls that hold KV."""
        return len(self.prefilling) + len(self.joining) + len(self.left)

    def need(self, request: Request) -> float:
        """KV bytes per GPU of a call at its end."""
        return (request.input_tokens + request.output_tokens) * self.per_token

    def fits(self, request: Request) -> bool:
        """Whether the next call may be admitted."""
        return self.held + self.need(request) <= self.quota and self.running < self.served.engine.max_num_seqs


class MeshEngine:
    """The scheduler of one mesh (ADBS)."""

    def __init__(self, env: Kernel, number: int, seats: Sequence[Seat], laws: SharingLaws, policy: Policy) -> None:
        self.env = env
        self.number = number
        self.seats = list(seats)
        self.laws = laws
        self.policy = policy
        self._turn = 0
        self._prefilling: Seat | None = None
        self._jobs = 0
        """Jobs that run now."""
        self._promises: list[Promise] = []
        self._looked = 0
        """Tick at which the promises were last worked off."""
        self._waking = False

    def submit(self, seat: Seat, request: Request) -> None:
        """Take a call in. Raises ``SimulationError`` when it can never fit the LLM's quota."""
        there_is = fsum(other.quota for other in self.seats)
        if seat.need(request) > there_is:
            raise SimulationError(
                f"a call of {request.input_tokens + request.output_tokens} tokens never fits the mesh of {seat.name}: it needs "
                f"{seat.need(request) / 1e9:.2f} GB of KV per GPU, the mesh has {there_is / 1e9:.2f} GB"
            )
        request.instance = seat.name
        seat.waiting.append(request)
        self._wake()

    def _wake(self) -> None:
        if not self._waking:
            self._waking = True
            self.env.alarm(0, SCHEDULE, self._on_wake)

    def _on_wake(self, _: Any) -> None:
        self._waking = False
        if self.policy == "fcfs":
            self._one_job()
            return
        if self._prefilling is None:
            self._start_prefill()
        for seat in self.seats:
            if not seat.decoding and (seat.left or seat.joining):
                self._start_decode(seat, seat.decode_pct)

    def _one_job(self) -> None:
        """FCFS: prefill what arrived first on the mesh if it fits, else one decode step, the LLMs in turn."""
        if self._jobs:
            return
        ready = [seat for seat in self.seats if seat.waiting and seat.fits(seat.waiting[0])]
        if ready:
            self._prefill(min(ready, key=lambda seat: (seat.waiting[0].issued, self.seats.index(seat))))
            return
        for offset in range(len(self.seats)):
            seat = self.seats[(self._turn + offset) % len(self.seats)]
            if seat.left or seat.joining:
                self._turn = (self.seats.index(seat) + 1) % len(self.seats)
                self._start_decode(seat, 100)
                return

    # ---- prefill ---------------------------------------------------------------------------------------------------

    def _start_prefill(self) -> None:
        """The next LLM in turn whose first waiting call fits."""
        for offset in range(len(self.seats)):
            seat = self.seats[(self._turn + offset) % len(self.seats)]
            if seat.waiting:
                if (seat.per_token and seat.held >= FULL_PCT / 100 * seat.quota) or not seat.fits(seat.waiting[0]):
                    self._take_blocks(seat)
                if seat.fits(seat.waiting[0]):
                    self._turn = (self.seats.index(seat) + 1) % len(self.seats)
                    self._prefill(seat)
                    return

    def _take_blocks(self, needy: Seat) -> None:
        """A tenth of the blocks of every LLM below 90 % of its quota, as far as they are free, goes to the one that is full."""
        for seat in self.seats:
            if seat is not needy and seat.held < FULL_PCT / 100 * seat.quota:
                taken = min(seat.quota * TAKE_PCT / 100, seat.quota - seat.held)
                seat.quota -= taken
                needy.quota += taken

    def _prefill(self, seat: Seat) -> None:
        """Admit waiting calls up to the batch's token limit."""
        engine = seat.served.engine
        tokens = area = 0
        while seat.waiting and seat.fits(seat.waiting[0]):
            request = seat.waiting[0]
            hit = cached_tokens(seat.kept, request, engine.block_tokens)
            if seat.prefilling and tokens + request.input_tokens - hit > engine.max_num_batched_tokens:
                break
            seat.waiting.popleft()
            request.scheduled, request.cached_tokens = self.env.now, hit
            seat.held += seat.need(request)
            seat.prefilling.append(request)
            tokens += request.input_tokens - hit
            area += (request.input_tokens - hit) * request.input_tokens
        self._prefilling = seat
        step = seat.served.step
        share = self._share(100)
        cost = step.weights_s(tokens) + step.prefill_s_per_token * tokens + step.attention_s_per_token2 * area
        cost *= self.laws.share.prefill_factor(tokens, share)
        self._start_job(0, share, cost, partial(self._end_prefill, seat))

    def _end_prefill(self, seat: Seat, _: Any) -> None:
        self._jobs -= 1
        self._prefilling = None
        batch, seat.prefilling = seat.prefilling, []
        for request in batch:
            request.first_token = self.env.now
            seat.kept.keep(request.keys)
            if request.output_tokens <= 1:
                self._leave(seat, request)
            else:
                seat.joining.append(request)
        self._wake()

    # ---- decode ----------------------------------------------------------------------------------------------------

    def _start_decode(self, seat: Seat, asked_pct: int) -> None:
        """One decode step of everything the LLM has running."""
        for request in seat.joining:
            seat.left[request] = request.output_tokens - 1
            seat.context += request.input_tokens + 1
        seat.joining = []
        seat.decoding = True
        size = len(seat.left)
        share = self._share(asked_pct)
        others = fsum(s.bandwidth_demand for s in self.seats if s.decoding and s is not seat)
        cost = seat.served.step.step_s(0, 0, size, seat.context) * self.laws.share.decode_factor(size, share)
        cost *= self.laws.contention.slowdown(seat.bandwidth_demand, others)
        self._start_job(1 + self.seats.index(seat), share, cost, partial(self._end_decode, seat))

    def _end_decode(self, seat: Seat, _: Any) -> None:
        self._jobs -= 1
        seat.decoding = False
        seat.context += len(seat.left)
        ended = []
        for request in seat.left:
            seat.left[request] -= 1
            if seat.left[request] == 0:
                ended.append(request)
        for request in ended:
            del seat.left[request]
            seat.context -= request.input_tokens + request.output_tokens
            self._leave(seat, request)
        self._wake()

    def _leave(self, seat: Seat, request: Request) -> None:
        seat.held -= seat.need(request)
        request.end = self.env.now
        request.caller.call_ended(request)

    def _share(self, asked_pct: int) -> int:
        """Percent of the SMs of a job that starts now: what it asks for, scaled down when all LLMs with work ask for more than
        100 %."""
        if self.policy == "fcfs":
            return asked_pct
        wanted = 100 * (self._prefilling is not None)
        wanted += sum(seat.decode_pct for seat in self.seats if seat.left or seat.joining)
        return max(1, round(asked_pct * 100 / max(100, wanted)))

    def _start_job(self, job: int, share_pct: int, cost_s: float, ended: Callable[[Any], None]) -> None:
        """Run a job that takes ``cost_s`` at its share beside nobody; ``job`` is 0 for the prefill, then the LLMs in order."""
        now, takes = self.env.now, ticks(cost_s)
        self._promises = worked_off(self._promises, now - self._looked)
        self._looked = now
        work = -(-takes * share_pct // 100)
        end = earliest_end(now, now + takes, work, self._promises)
        insort(self._promises, (end, job, work))
        self._jobs += 1
        self.env.alarm(end - now, STEP_END + self.number, ended)


class MuxServePool:
    """All meshes; copies of one LLM take calls by least outstanding."""

    def __init__(self, env: Kernel, meshes: Sequence[Mesh], profiles: ProfileSet, gpu_type: str, policy: Policy) -> None:
        laws = SharingLaws(profiles.share_law, profiles.contention)
        self.seats: dict[str, list[tuple[Seat, MeshEngine]]] = {}
        for number, mesh in enumerate(meshes):
            seats = seats_of(mesh, profiles, gpu_type)
            engine = MeshEngine(env, number, seats, laws, policy)
            for seat, tenant in zip(seats, mesh.tenants, strict=True):
                self.seats.setdefault(tenant.demand.llm, []).append((seat, engine))

    def submit(self, llm: str, request: Request) -> None:
        """To the copy with the fewest calls."""
        seat, engine = min(self.seats[llm], key=lambda pair: (pair[0].outstanding, pair[0].name))
        engine.submit(seat, request)


def seats_of(mesh: Mesh, profiles: ProfileSet, gpu_type: str) -> list[Seat]:
    """The LLMs of a mesh, the KV memory divided by rate · KV per token."""
    estimator = Estimator(profiles, gpu_type)
    chosen = [profiles.of(tenant.demand.llm, gpu_type, mesh.size) for tenant in mesh.tenants]
    free = estimator.kv_bytes(mesh.size, [tenant.demand.llm for tenant in mesh.tenants])
    weights = [
        tenant.demand.rate_per_s * profile.llm.kv_bytes_per_token_per_gpu(mesh.size)
        for tenant, profile in zip(mesh.tenants, chosen, strict=True)
    ]
    whole = fsum(weights) or 1.0
    given = min(mesh.decode_pct, 100) or 100
    seats = []
    for tenant, profile, weight in zip(mesh.tenants, chosen, weights, strict=True):
        share = (tenant.decode_share_pct or 100) * 100 // given
        demand = profile.decode_bandwidth_demand / profiles.share_law.decode_factor(1, share)
        seats.append(Seat(PooledLlm.of(profile), tenant.demand.name, share, demand, free * weight / whole))
    return seats


def simulate_muxserve(
    workload: Workload, meshes: Sequence[Mesh], profiles: ProfileSet, gpu_type: str, *, policy: Policy = "adbs"
) -> Records:
    """Replay a workload on placed meshes."""
    llms: Mapping[str, PooledLlm] = {
        tenant.demand.llm: PooledLlm.of(profiles.of(tenant.demand.llm, gpu_type, mesh.size))
        for mesh in meshes
        for tenant in mesh.tenants
    }
    return replay_pool(lambda env: MuxServePool(env, meshes, profiles, gpu_type, policy), workload, llms, system="muxserve")
