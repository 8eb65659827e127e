"""Policies that act on a running simulated cluster, and the systems that ``scepsy simulate --system`` knows."""

from collections.abc import Mapping

from sim.control import Policy
from sim.policies.hpa import KEDA, HpaSettings, hpa

SYSTEMS: Mapping[str, tuple[Policy, ...]] = {
    "static": (),
    "hpa": (hpa(),),
    "hpa-load": (hpa(HpaSettings(metric="load")),),
    "hpa-kv": (hpa(HpaSettings(metric="kv-use")),),
    "hpa-gpu": (hpa(HpaSettings(metric="gpu-utilisation")),),
    "keda": (hpa(KEDA),),
}
"""Policies by name of the system: what to pass to ``simulate(…, policies=SYSTEMS[name])``."""

__all__ = ["SYSTEMS"]
