"""What works on this machine, what is missing, and the command that mends it. Nothing is changed, and nothing is started."""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scepsy.errors import BackendError
from scepsy.files.cache import cache_dir, usable_cache
from scepsy.version import __version__

Standing = Literal["works", "missing", "broken"]

LEAST_PYTHON = (3, 11)
PROBE_S = 10.0
"""Longest that one program or one request may take."""
DRA_MEND = "helm install nvidia-dra-driver-gpu nvidia/nvidia-dra-driver-gpu (see docs/kubernetes.md)"
EXTRAS = {
    "gateway": ("aiohttp", "prometheus_client", "psutil"),
    "k8s": ("kubernetes", "psutil"),
    "gpu": ("vllm",),
    "vendor": ("aiconfigurator_core",),
    "models": ("transformers", "torch"),
    "cluster": ("dask", "distributed"),
    "ray": ("ray",),
    "agents": ("openai", "langgraph", "langchain_openai", "pydantic_ai"),
}
"""Modules by extra, as pyproject.toml groups them."""
NEEDED_FOR = {
    "gateway": "the gateway, recording and local deployments",
    "k8s": "apply, diff, status and discover on Kubernetes",
    "gpu": "engines on this host",
    "vendor": "profile fit from vendor data",
    "models": "model add from checkpoints that transformers must read",
    "cluster": "experiments on a Dask cluster",
    "ray": "experiments on Ray",
    "agents": "the example agents",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    standing: Standing
    found: str
    """What is there, or why it does not work."""
    needed_for: str
    needed: bool = False
    """Whether planning and simulating need it."""
    mend: str = ""
    """The command that mends it; empty where it works."""


def examine() -> list[Finding]:
    """Look at everything. A check that fails unforeseen is a finding, never an exception."""
    found: list[Finding] = []
    for name, check in CHECKS.items():
        try:
            found += check()
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
            found.append(Finding(name, "broken", told, name, mend="report this to Scepsy's maintainers"))
    return found


def _python() -> Iterator[Finding]:
    told = f"{sys.version.split()[0]} at {sys.executable}"
    good = sys.version_info >= LEAST_PYTHON
    need = ".".join(map(str, LEAST_PYTHON))
    yield Finding("python", "works" if good else "broken", told, "everything", needed=True,
                  mend="" if good else f"install Python {need} or newer, then: python{need} -m venv .venv")  # fmt: skip
    in_venv = sys.prefix != sys.base_prefix
    yield Finding("virtual environment", "works" if in_venv else "missing", sys.prefix if in_venv else "none is active",
                  "keeping Scepsy's generic package names (sim, executor) to itself",
                  mend="" if in_venv else "make setup && . .venv/bin/activate")  # fmt: skip
    yield Finding("scepsy", "works", f"{__version__} at {Path(__file__).parents[1]}", "everything", needed=True)


def _extras() -> Iterator[Finding]:
    for extra, modules in EXTRAS.items():
        absent = [module for module in modules if importlib.util.find_spec(module) is None]
        told = f"lacks {', '.join(absent)}" if absent else ", ".join(map(_version, modules))
        yield Finding(f"extra {extra}", "missing" if absent else "works", told, NEEDED_FOR[extra],
                      mend=f"pip install -e '.[{extra}]' in Scepsy's repository" if absent else "")  # fmt: skip


def _event_loop() -> Iterator[Finding]:
    """The gateway's: it runs without uvloop too, since uvloop does not run everywhere."""
    absent = importlib.util.find_spec("uvloop") is None
    told = "no uvloop: asyncio's own event loop, which is slower" if absent else _version("uvloop")
    yield Finding("event loop", "missing" if absent else "works", told, "requests per second of the gateway",
                  mend="pip install -e '.[gateway]' in Scepsy's repository (not on Windows)" if absent else "")  # fmt: skip


def _version(module: str) -> str:
    names = importlib.metadata.packages_distributions().get(module, [module])
    try:
        return f"{names[0]} {importlib.metadata.version(names[0])}"
    except importlib.metadata.PackageNotFoundError:
        return module


def _cache() -> Iterator[Finding]:
    folder = cache_dir()
    good = usable_cache(folder) is not None
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if good else 0
    told = f"{folder} ({size / 1e6:.1f} MB)" if good else f"{folder} cannot be written"
    yield Finding("cache", "works" if good else "missing", told, "keeping profiled curves between commands",
                  mend="" if good else "export XDG_CACHE_HOME=FOLDER that you can write to")  # fmt: skip
    free = shutil.disk_usage(folder if good else Path.cwd()).free / 1e9
    yield Finding("disk", "works" if free > 1 else "broken", f"{free:.1f} GB free", "plans, pages and records", needed=True,
                  mend="" if free > 1 else "free some space")  # fmt: skip


def _engine() -> Iterator[Finding]:
    program = shutil.which("vllm")
    yield Finding("engine vllm", "works" if program else "missing", program or "no vllm on the PATH", "apply --target local",
                  mend="" if program else "pip install -e '.[gpu]' in Scepsy's repository")  # fmt: skip


def _gpus() -> Iterator[Finding]:
    rows = _said(["nvidia-smi", "--query-gpu=name,memory.total,driver_version,mig.mode.current", "--format=csv,noheader"])
    if rows is None:
        why = "no nvidia-smi on the PATH" if shutil.which("nvidia-smi") is None else "nvidia-smi answers with an error"
        yield Finding("GPU", "missing", f"{why}: no NVIDIA GPU here, or no driver", "engines on this host",
                      mend="install the NVIDIA driver, or deploy to a cluster (planning needs no GPU)")  # fmt: skip
        return
    yield Finding("GPU", "works", "; ".join(rows.splitlines()), "engines on this host")
    control = shutil.which("nvidia-cuda-mps-control")
    told = control or "no nvidia-cuda-mps-control on the PATH"
    yield Finding("MPS", "works" if control else "missing", told, "several engines on one GPU of this host",
                  mend="" if control else "install the CUDA driver's MPS tools")  # fmt: skip


def _said(words: list[str]) -> str | None:
    """What a program prints; None where it is absent, fails or hangs."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=PROBE_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cluster() -> Iterator[Finding]:
    path = Path(os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")
    in_pod = "KUBERNETES_SERVICE_HOST" in os.environ
    if not path.exists() and not in_pod:
        yield Finding("kubeconfig", "missing", f"{path} does not exist", "apply, diff, status and discover on Kubernetes",
                      mend="export KUBECONFIG=FILE (manifests need none: scepsy render)")  # fmt: skip
        return
    if importlib.util.find_spec("kubernetes") is None:
        yield Finding("kubeconfig", "works", str(path), "Kubernetes; not tried, since the extra k8s is missing",
                      mend="pip install -e '.[k8s]' in Scepsy's repository")  # fmt: skip
        return
    from executor.cluster.api import Patience
    from executor.cluster.connect import connect
    from executor.cluster.kinds import DEVICE_CLASS
    from executor.cluster.preflight import check_version

    try:
        api = connect("default", patience=Patience(total_s=PROBE_S, request_s=PROBE_S))
        check_version(api)
        device_class = api.get(DEVICE_CLASS, "gpu.nvidia.com")
    except BackendError as error:
        yield Finding("Kubernetes", "broken", str(error), "apply, diff, status and discover on Kubernetes",
                      mend=f"repair {path}, or choose another: export KUBECONFIG=FILE")  # fmt: skip
        return
    yield Finding("Kubernetes", "works", f"{api.host} by {path}", "apply, diff, status and discover on Kubernetes")
    yield Finding("DRA", "works" if device_class else "missing",
                  "DeviceClass gpu.nvidia.com" if device_class else f"{api.host} has no DeviceClass gpu.nvidia.com",
                  "the targets dra and mps, and discover", mend="" if device_class else DRA_MEND)  # fmt: skip


CHECKS: dict[str, Callable[[], Iterator[Finding]]] = {
    "python": _python,
    "extras": _extras,
    "event loop": _event_loop,
    "cache": _cache,
    "engine": _engine,
    "gpus": _gpus,
    "cluster": _cluster,
}
