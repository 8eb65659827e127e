"""Where Autellix sends calls: short prompts to the emptiest instance, long ones to their run's home."""

from sim.policies.routers.plas import SHORT_TOKENS
from sim.world.run import simulate
from tests.builders.by_hand import call, profiles, replayed, run
from tests.sim.policies.test_ayo import plan


def test_long_prompts_of_a_run_stay_together_and_short_ones_spread() -> None:
    def shape(name: str, at_s: float) -> object:
        long = SHORT_TOKENS + 1
        return run(
            name,
            call("a", "m", tokens=long, out=2),
            call("b", "m", tokens=long, out=2, parents=["a"]),
            call("s", "m", tokens=10, out=2, parents=["a"]),
            at_s=at_s,
        )

    load = replayed(shape("r0", 0.0), shape("r1", 0.1))  # type: ignore[arg-type]
    records = simulate(plan({"m": 2}), load, profiles=profiles(["m"]), router="plas", queue_order="plas")
    where = {(row["run"].split("-")[-1], row["call"]): row["instance"] for row in records.calls.to_pylist()}
    for number in ("0", "1"):
        assert where[number, "a"] == where[number, "b"]
    # r0's first call keeps m-0 busy, so r1's goes to m-1.
    assert (where["0", "a"], where["1", "a"]) == ("m-0", "m-1")
