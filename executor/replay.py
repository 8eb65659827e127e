"""Replay of a workload against real engines: open loop, with the runs' own dependencies and gaps.

The same ``scepsy.arrivals`` as the simulator's: same times, same sampled runs. Records have the same schema; what a client
cannot see (when an engine admitted a call, how often it preempted it) is null.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec
import pyarrow as pa

from executor.wire.prompts import UNIT, request_of
from executor.wire.stream import Output
from scepsy.arrivals import issue, users
from scepsy.backend import Workload
from scepsy.errors import BackendError
from scepsy.prefixes import shared_between_sessions
from scepsy.records import CALL_SCHEMA, COMPLETED, REJECTED, RUN_SCHEMA, UNFINISHED, Records
from scepsy.version import __version__
from scepsy.workload import Call, Run

CALIBRATION_UNITS = 64


@dataclass
class _CallRow:
    run: str
    call: Call
    workflow: str
    issued_s: float
    instance: str | None = None
    first_s: float | None = None
    end_s: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int | None = None
    status: str = UNFINISHED


@dataclass
class _RunRow:
    run: str
    template: Run
    arrival_s: float
    end_s: float | None = None
    status: str = UNFINISHED


@dataclass(frozen=True)
class Served:
    """What the replay must know of a served LLM."""

    context_limit: int
    tokens_per_unit: float = 1.0


@dataclass
class _Replay:
    url: str
    session: aiohttp.ClientSession
    served: Mapping[str, Served]
    block_tokens: Mapping[str, int]
    shared: Mapping[str, frozenset[int] | None]
    """By workflow: prefix ids that stay the same however often a run is replayed; None: each is replayed once."""
    start_s: float
    once: str
    """Makes this replay's prompts differ from those of every other one."""
    calls: list[_CallRow] = field(default_factory=list)
    runs: list[_RunRow] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    late_s: float = 0.0

    def now_s(self) -> float:
        return time.perf_counter() - self.start_s

    async def until(self, at_s: float) -> None:
        """Sleep until ``at_s``; remember how late the loop woke."""
        await asyncio.sleep(max(0.0, at_s - self.now_s()))
        self.late_s = max(self.late_s, self.now_s() - at_s)

    async def walk(self, run_id: str, run: Run, arrival_s: float) -> None:
        """One run: each call once its parents are done and its gap is over."""
        row = _RunRow(run_id, run, arrival_s)
        self.runs.append(row)
        ended: dict[str, asyncio.Future[float]] = {call.id: asyncio.get_running_loop().create_future() for call in run.calls}
        failed = asyncio.Event()

        async def one(call: Call) -> None:
            parents = [await ended[parent] for parent in call.parents]
            await self.until(max(parents, default=arrival_s) + call.gap_s)
            if failed.is_set():
                ended[call.id].cancel()
                return
            sent = await self.send(run_id, run.workflow, call)
            if sent.status != COMPLETED:
                failed.set()
                row.status = sent.status
                ended[call.id].cancel()
            else:
                assert sent.end_s is not None
                ended[call.id].set_result(sent.end_s)

        tasks = [asyncio.create_task(one(call)) for call in run.calls]
        try:
            await asyncio.gather(*tasks, return_exceptions=False)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
        if not failed.is_set():
            last_s = max(future.result() for future in ended.values())
            await self.until(last_s + run.tail_s)
            row.end_s, row.status = last_s + run.tail_s, COMPLETED

    async def send(self, run_id: str, workflow: str, call: Call) -> _CallRow:
        """One call, from its first byte out to its last byte in."""
        served = self.served[call.llm]
        endpoint, body = request_of(
            call,
            block_tokens=self.block_tokens[workflow],
            salt=run_id,
            tokens_per_unit=served.tokens_per_unit,
            context_limit=served.context_limit,
            once=self.once,
            shared=self.shared[workflow],
        )
        data = msgspec.json.encode(body)
        row = _CallRow(run_id, call, workflow, self.now_s(), input_tokens=call.input_tokens, output_tokens=call.output_tokens)
        self.calls.append(row)
        headers = {"Content-Type": "application/json", "x-scepsy-run": run_id, "x-scepsy-workflow": workflow}
        output = Output()
        try:
            async with self.session.post(f"{self.url}/v1/{endpoint}", data=data, headers=headers) as answer:
                row.instance = answer.headers.get("x-scepsy-instance")
                if answer.status != 200:
                    text = (await answer.text())[:200]
                    row.status = REJECTED if answer.status in (429, 503) else UNFINISHED
                    self._count(f"{answer.status}: {text}")
                    return row
                parts = []
                async for chunk in answer.content.iter_any():
                    if row.first_s is None:
                        row.first_s = self.now_s()
                    parts.append(chunk)
                row.end_s = self.now_s()
        except (aiohttp.ClientError, TimeoutError) as error:
            self._count(type(error).__name__)
            return row
        everything = b"".join(parts)
        (output.read_events if call.kind == "generate" else output.read)(everything)
        if output.failed:
            row.end_s = None
            self._count("error within the stream")
            return row
        if call.kind != "generate":
            row.first_s = row.end_s
        if output.usage is not None:
            row.input_tokens, row.cached_tokens = output.usage.input_tokens, output.usage.cached_tokens
            row.output_tokens = output.usage.output_tokens if call.kind == "generate" else 0
        row.status = COMPLETED
        return row

    def _count(self, error: str) -> None:
        self.errors[error] = self.errors.get(error, 0) + 1


async def replay(
    url: str,
    workload: Workload,
    context_limits: Mapping[str, int],
    *,
    api_key: str = "",
    meta: Mapping[str, str] | None = None,
    once: str = "",
    on_run: Callable[[], None] = lambda: None,
) -> Records:
    """Replay ``workload`` against the gateway (or engine) at ``url``, which ends without /v1.

    ``context_limits``: per LLM, as in its profile. ``once``: replays with the same one repeat the same prompts (default: none
    do, so that no replay finds another's in the engines' prefix caches). ``on_run`` is called at each run's end.
    Raises ``BackendError`` when ``url`` does not answer or no call at all was completed.
    """
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2.0)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:
        llms = {call.llm: call.kind for item in workload.streams for run in item.trace.runs for call in run.calls}
        missing = sorted(set(llms) - set(context_limits))
        if missing:
            raise BackendError(f"replay: LLM {missing[0]!r} of the trace is not served (served: {', '.join(context_limits)})")
        served = {
            llm: Served(context_limits[llm], await _tokens_per_unit(session, url, llm) if kind == "rerank" else 1.0)
            for llm, kind in llms.items()
        }
        blocks = {item.workflow: item.trace.prefix_block_tokens for item in workload.streams}
        known = shared_between_sessions(run for item in workload.streams for run in item.trace.runs)
        shared = {item.workflow: None if item.arrivals.kind == "trace" else known for item in workload.streams}
        state = _Replay(url, session, served, blocks, shared, time.perf_counter(), once or secrets.token_hex(8))
        await _drive(state, workload, on_run)
    if state.calls and not any(row.status == COMPLETED for row in state.calls):
        raise BackendError(f"replay: none of {len(state.calls)} calls was completed: {_most_frequent(state.errors)}")
    return _records(state, workload, meta or {})


async def _drive(state: _Replay, workload: Workload, on_run: Callable[[], None]) -> None:
    tasks: set[asyncio.Task[None]] = set()
    issued = 0

    async def one(run_id: str, run: Run, arrival_s: float) -> None:
        await state.walk(run_id, run, arrival_s)
        on_run()

    async def user(turns: Any) -> None:
        nonlocal issued
        for think_s, run_id, run in turns:
            await asyncio.sleep(think_s)
            at_s = state.now_s()
            if (workload.runs is not None and issued >= workload.runs) or (
                workload.horizon_s is not None and at_s > workload.horizon_s
            ):
                return
            issued += 1
            await one(run_id, run, at_s)

    for turns in users(workload):
        tasks.add(asyncio.create_task(user(turns)))
    for at_s, run_id, run in issue(workload):
        if workload.runs is not None and issued >= workload.runs:
            break
        await state.until(at_s)
        issued += 1
        tasks.add(asyncio.create_task(one(run_id, run, at_s)))
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=workload.drain_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for task in tasks - late:
            with contextlib.suppress(asyncio.CancelledError):
                task.result()


async def _tokens_per_unit(session: aiohttp.ClientSession, url: str, llm: str) -> float:
    """Tokens that ``UNIT`` costs, from the usage of one call to the reranker (a gateway has no /tokenize)."""
    counts = []
    for units in (CALIBRATION_UNITS, 2 * CALIBRATION_UNITS):
        body = {"model": llm, "query": "a", "documents": [UNIT * units]}
        try:
            async with session.post(f"{url}/v1/rerank", json=body) as answer:
                reply = await answer.json(content_type=None)
                counts.append(int(reply["usage"]["total_tokens"]))
        except (aiohttp.ClientError, TimeoutError, KeyError, TypeError, ValueError) as error:
            raise BackendError(
                f"replay: {llm} at {url} does not rerank ({type(error).__name__}): is it served there?"
            ) from error
    return max(1, counts[1] - counts[0]) / CALIBRATION_UNITS


def _most_frequent(errors: Mapping[str, int]) -> str:
    return max(errors, key=lambda error: errors[error]) if errors else "no error was seen"


def _records(state: _Replay, workload: Workload, meta: Mapping[str, str]) -> Records:
    run_rows = [
        (row.run, row.template.id, row.template.workflow, row.arrival_s, row.end_s, row.status)
        for row in sorted(state.runs, key=lambda row: (row.arrival_s, row.run))
    ]
    call_rows = [
        (
            row.run, row.call.id, row.workflow, row.call.llm, row.instance, row.issued_s, None, row.first_s,
            row.end_s if row.status == COMPLETED else None, row.input_tokens, row.output_tokens, row.cached_tokens, None,
            row.status,
        )
        for row in state.calls
    ]  # fmt: skip
    document = {
        "source": "measured",
        "seed": str(workload.seed),
        "version": __version__,
        "prompts": state.once,
        "latest_issue_s": f"{state.late_s:.6f}",
        "errors": str(sum(state.errors.values())),
        "most_frequent_error": _most_frequent(state.errors),
        **meta,
    }
    return Records(runs=_table(run_rows, RUN_SCHEMA), calls=_table(call_rows, CALL_SCHEMA), meta=document)


def _table(rows: list[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    return pa.Table.from_arrays(
        [pa.array(column, type=kind.type) for column, kind in zip(columns, schema, strict=True)], schema=schema
    )
