"""What dividing a GPU wins, under three laws, against public measurements and against whole-GPU plans.

    python -m experiments.checks.sharing                     # three tables on the terminal
    python -m experiments.checks.sharing --plans --gpus 8    # the third alone

Laws: ``unlimited`` (prompts of neighbours do not feel each other: creates compute), ``budget`` (the built-in law),
``conserved`` (every phase takes 1/s as long at share s: nothing overlaps, not even launches). Public points:

- Databricks, "Scaling small LLMs with NVIDIA MPS" (databricks.com/blog/scaling-small-llms-nvidia-mps): two engines under MPS
  give over 50 % more throughput for models up to 3 B with short contexts or prompt-only work, fading with size and
  context. Their loads are not published in a form one can repeat: ours are 64 users without think time.
- One pair of Qwen3-4B-FP8 on an A100 at 60 % + 60 %: TPOT +19.5 %, TTFT +1.4 %, throughput −7.5 % against the same share alone.
  The law's ``interference`` was fitted to this TPOT, so only the other two numbers test anything. Assumed: 16 users each, 512
  tokens in, 128 out.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pyarrow as pa

from scepsy.api.planner_sweep import problem_at
from scepsy.api.prepare import Load, prepare
from scepsy.arrivals import issue, users
from scepsy.backend import Stream, Workload
from scepsy.errors import Infeasible
from scepsy.generate import generate
from scepsy.llm import Llm
from scepsy.metrics import call_times
from scepsy.profile import catalogue
from scepsy.profile.model import Profile, ProfileSet
from scepsy.records import CALL_SCHEMA
from scepsy.search import PLANNERS
from scepsy.search.problem import Goal
from scepsy.workload import Arrivals, Call, Run, Trace, TraceSource
from sim.engine.ahead import make_replica
from sim.engine.clock import TICKS_PER_S, Kernel
from sim.engine.gpu import GpuState
from sim.engine.prefix import PrefixKeys
from sim.engine.queue import Queue
from sim.engine.spec import spec_of
from sim.policies.routers.builtin import LeastOutstanding
from sim.world.recorder import RecordWriter
from sim.world.run import run_to_the_end
from sim.world.world import World

SIZES = ("llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b", "qwen3-14b")
LOADS = {
    "prompts only (512 in, 1 out)": (512, 1),
    "short (256 in, 128 out)": (256, 128),
    "long (8192 in, 256 out)": (8192, 256),
}
PUBLISHED_PAIR_LLM = Llm(
    name="qwen3-4b-fp8", parameters=4.02e9, weight_bytes=4_400_000_000, kv_bytes_per_token=147456, context_limit=40960,
    kv_heads=8, attention_heads=32, layers=36, hidden_size=2560, head_size=128,
)  # fmt: skip
PAIR_PUBLISHED = {"TPOT": 19.5, "TTFT": 1.4, "throughput": -7.5}
WARMUP_PART = 0.2


def laws(profiles: ProfileSet) -> dict[str, ProfileSet]:
    """The same profiles under the three laws."""
    unlimited = msgspec.structs.replace(profiles.contention, compute_capacity=None)
    strict = msgspec.structs.replace(profiles.share_law, prefill_k=1.0, prefill_small_k=1.0, decode_k=1.0, decode_large_k=1.0)
    none = msgspec.structs.replace(profiles.contention, interference=0.0)
    return {
        "unlimited": msgspec.structs.replace(profiles, contention=unlimited),
        "budget": profiles,
        "conserved": msgspec.structs.replace(profiles, share_law=strict, contention=none),
    }


@dataclass(frozen=True)
class Seen:
    """What a closed loop showed."""

    calls_per_s: float
    ttft_s: float
    tpot_s: float


def one_gpu(
    profile: Profile, share_pct: int, instances: int, profiles: ProfileSet, sizes: tuple[int, int], total_users: int, calls: int
) -> Seen:
    """``instances`` on one GPU, ``share_pct`` each (their sum may exceed 100, as MPS allows), under a closed loop."""
    kept: list[pa.RecordBatch] = []
    recorder = RecordWriter(lambda table, batch: kept.append(batch) if table == "calls" else None)
    env, name = Kernel(), profile.llm.name
    call = Call(id="c", llm=name, input_tokens=sizes[0], output_tokens=sizes[1])
    trace = Trace(source=TraceSource(origin="made up"), runs=(Run(id="r", workflow="w", calls=(call,)),))
    load = Workload(
        streams=(Stream(trace=trace, arrivals=Arrivals(kind="closed", users=total_users)),), seed=1, runs=calls + total_users
    )
    world = World(env, recorder, PrefixKeys([(trace, True)], {name: profile.engine.block_tokens}))
    gpu, router = GpuState("gpu", profiles.contention), LeastOutstanding(name, 1)
    for number in range(instances):
        spec = spec_of(profile, f"{name}-{number}", share_pct, profiles)
        replica = make_replica(env, number, spec, [gpu], Queue())
        world.replicas.append(replica)
        router.add(replica)
    world.routers[name] = router
    world.load(load, issue(load), users(load))
    run_to_the_end(world)
    recorder.close()
    table = pa.Table.from_batches(kept, CALL_SCHEMA)
    begin = WARMUP_PART * env.now / TICKS_PER_S
    table = table.filter(pa.compute.greater_equal(table["issued_s"], begin))
    times = call_times(table)
    seconds = float(pa.compute.max(table["end_s"]).as_py()) - begin
    tpot = times["tpot"][times["tpot"] == times["tpot"]]
    return Seen(len(table) / seconds, float(times["ttft"].mean()), float(tpot.mean()) if len(tpot) else 0.0)


def divided(calls: int, gpu: str = "H100-80G") -> list[dict[str, object]]:
    """What two instances at 50 % do over one on the whole GPU, percent more throughput."""
    rows = []
    for size in SIZES:
        profiles = catalogue.builtin_profiles([size], [gpu], degrees=(1,))
        for load, sizes in LOADS.items():
            row: dict[str, object] = {"model": size, "load": load}
            for law, ours in laws(profiles).items():
                profile = ours.of(size, gpu, 1)
                whole = one_gpu(profile, 100, 1, ours, sizes, 64, calls).calls_per_s
                two = one_gpu(profile, 50, 2, ours, sizes, 64, calls).calls_per_s
                row[law] = 100 * (two / whole - 1)
            rows.append(row)
    return rows


def pair(calls: int) -> dict[str, dict[str, float]]:
    """The published pair: percent against one instance at the same share alone."""
    profile = catalogue.built_in_profile(PUBLISHED_PAIR_LLM, catalogue.gpu_type("A100-80G"), 1)
    known = catalogue.laws()
    profiles = ProfileSet(
        profiles=(profile,), share_law=known.share_law, contention=known.contention, cold_start=known.cold_start
    )
    found = {}
    for law, ours in laws(profiles).items():
        alone = one_gpu(profile, 60, 1, ours, (512, 128), 16, calls)
        both = one_gpu(profile, 60, 2, ours, (512, 128), 32, 2 * calls)
        found[law] = {
            "TPOT": 100 * (both.tpot_s / alone.tpot_s - 1),
            "TTFT": 100 * (both.ttft_s / alone.ttft_s - 1),
            "throughput": 100 * (both.calls_per_s / 2 / alone.calls_per_s - 1),
        }
    return found


def plans(workflows: Sequence[str], gpus: int, cache_dir: Path | None) -> list[dict[str, object]]:
    """Highest planned rate and mean latency with fractions over whole GPUs only, under each law.

    The latency is predicted at 70 % of the highest rate of the whole-GPU plan.
    """
    cluster, rows = catalogue.cluster_of(gpus), []
    for workflow in workflows:
        trace = generate(workflow, runs=200, seed=1)
        profiles = catalogue.builtin_profiles(list(trace.llms), [kind.name for kind in cluster.gpu_types])
        for law, ours in laws(profiles).items():
            load = Load(trace=trace, arrivals=Arrivals(rate_per_s=1.0))
            problem = prepare([load], cluster, ours, seed=1, cache_dir=cache_dir)
            top, latency, rate = {}, {}, 0.0
            for unit in (100, 10):
                mine = replace(problem, share_unit_pct=unit)
                try:
                    plan = PLANNERS["exact"](problem_at(mine, 1e-3, Goal(kind="rate")))
                    top[unit] = plan.expected[0].throughput_per_s
                    rate = rate or 0.7 * top[unit]
                    latency[unit] = PLANNERS["exact"](problem_at(mine, rate)).expected[0].latency_s
                except Infeasible:
                    top[unit], latency[unit] = 0.0, float("inf")
            rows.append(
                {
                    "workflow": workflow,
                    "law": law,
                    "whole_per_s": top[100],
                    "fractions_per_s": top[10],
                    "rate_pct": 100 * (top[10] / top[100] - 1) if top[100] else float("inf"),
                    "latency_pct": 100 * (latency[10] / latency[100] - 1),
                }
            )
    return rows


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--calls", type=int, default=3000, help="calls per closed loop")
    parser.add_argument("--gpus", type=int, default=8, help="GPUs of the cluster that is planned for")
    parser.add_argument("--workflow", action="append", help="a generated workflow (default: rag-rerank, beam-search)")
    parser.add_argument("--cache", type=Path, help="folder of cached curves")
    parser.add_argument("--plans", action="store_true", help="the plans alone")
    chosen = parser.parse_args()
    if not chosen.plans:
        print("Two instances at 50 % of an H100 over one on the whole, throughput:\n")
        print("| model | load | unlimited | budget | conserved |\n|---|---|---|---|---|")
        for row in divided(chosen.calls):
            numbers = " | ".join(f"{row[law]:+.0f} %" for law in ("unlimited", "budget", "conserved"))
            print(f"| {row['model']} | {row['load']} | {numbers} |")
        print("\nTwo Qwen3-4B-FP8 at 60 % of an A100 over one alone at 60 %:\n")
        print("| law | TPOT | TTFT | throughput |\n|---|---|---|---|")
        for law, found in {**pair(chosen.calls), "published": PAIR_PUBLISHED}.items():
            print(f"| {law} | {found['TPOT']:+.1f} % | {found['TTFT']:+.1f} % | {found['throughput']:+.1f} % |")
    print(f"\nPlans on {chosen.gpus} A100-80G, fractions over whole GPUs (latency at 70 % of the whole GPUs' highest rate):\n")
    print("| workflow | law | whole GPUs, runs/s | fractions, runs/s | rate | mean latency |\n|---|---|---|---|---|---|")
    for row in plans(chosen.workflow or ("rag-rerank", "beam-search"), chosen.gpus, chosen.cache):
        print(
            f"| {row['workflow']} | {row['law']} | {row['whole_per_s']:.2f} | {row['fractions_per_s']:.2f} | "
            f"{row['rate_pct']:+.0f} % | {row['latency_pct']:+.0f} % |"
        )


if __name__ == "__main__":
    main()
