"""Scaling as NVIDIA Dynamo's planner does it, throughput-based: replicas from a predicted load and profiled engines.

Source: ai-dynamo/dynamo, docs/design-docs/planner-design.md (v0.9 to v1.1). Every ``interval_s`` (180) and per LLM, with the
requests and mean lengths of the interval as the prediction of the next (its ``constant`` predictor):

- prompts: ``requests * isl / interval * min(1, TTFT seen / TTFT expected)`` tokens/s over what one engine prefills;
- decoding: ``requests * osl / interval`` tokens/s over the highest throughput of one engine at which a step takes at most
  the target time between tokens, at a context of ``isl + osl / 2``.

Ours: engines here prefill and decode (Dynamo's formulas are for engines apart), so the two fractions of an engine's time are
added and rounded up once. The correction of the time between tokens is off (``--no-correction``). Each LLM has a planner of
its own: coordination of several models is not supported there. An instance without a GPU stays pending, first come first
served.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from math import ceil, fsum
from typing import Any

import simpy

from scepsy.profile.model import Profile, kv_capacity_tokens
from sim.policies.autoscaling.seen import Ended, Seen
from sim.world.control import Control, Policy


@dataclass(frozen=True)
class DynamoSettings:
    """The published defaults."""

    interval_s: float = 180.0
    itl_s: float = 0.050
    """Target time between tokens."""
    least: int = 1
    most: int = 1 << 30


def prefill_s(profile: Profile, tokens: float) -> float:
    """Seconds of one prompt alone."""
    return profile.step.step_s(round(tokens), 0, 0, 0)


def decode_tokens_per_s(profile: Profile, context: float, itl_s: float) -> float:
    """The highest decode throughput of one engine within the target; that of one call when even that is slower."""
    fits = max(1, int(kv_capacity_tokens(profile, 100) / max(context, 1.0))) if profile.llm.kv_bytes_per_token else 1 << 20
    best, batch = 1.0 / profile.step.step_s(0, 0, 1, round(context)), 1
    while batch <= min(profile.engine.max_num_seqs, fits):
        step_s = profile.step.step_s(0, 0, batch, round(batch * context))
        if step_s > itl_s:
            break
        best = max(best, batch / step_s)
        batch += 1
    return best


def replicas(profile: Profile, rate_per_s: float, isl: float, osl: float, seen: float, settings: DynamoSettings) -> int:
    """Instances for a rate of calls with mean lengths; ``seen``: TTFT seen over expected (at most 1 counts)."""
    busy = rate_per_s * prefill_s(profile, isl) * min(1.0, seen)
    if osl > 1:
        busy += rate_per_s * osl / decode_tokens_per_s(profile, isl + osl / 2, settings.itl_s)
    return min(max(settings.least, ceil(round(busy, 9))), settings.most)


def dynamo(profile_of: Callable[[str], Profile], settings: DynamoSettings = DynamoSettings()) -> Policy:
    """The policy: one planner per LLM; ``profile_of`` gives the profile of its instances."""

    def policy(control: Control) -> Generator[simpy.Event, Any, None]:
        seen = Seen(control)
        while True:
            yield control.sleep(settings.interval_s)
            for llm in control.llms:
                arrived, ended = seen.arrived(llm), seen.ended(llm)
                if ended.calls:
                    control.resize(llm, _want(profile_of(llm), arrived / settings.interval_s, ended, settings))

    return policy


def _want(profile: Profile, rate_per_s: float, ended: Ended, settings: DynamoSettings) -> int:
    isl, osl = ended.input_tokens / ended.calls, ended.output_tokens / ended.calls
    ttft_s = fsum(ended.ttft_s) / ended.calls
    return replicas(profile, rate_per_s, isl, osl, ttft_s / prefill_s(profile, isl), settings)


__all__ = ["DynamoSettings", "decode_tokens_per_s", "dynamo", "prefill_s", "replicas"]
