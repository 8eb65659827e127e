"""One process of a deployment (an engine, the gateway): started with its marks, watched, ended with all it started."""

import contextlib
import os
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from executor.local.folder import open_log
from executor.local.health import Deadlines, EngineHealth
from executor.local.identity import born
from executor.local.marks import MARK, Which, make_pen, put_limit, stop_marked
from executor.local.shares import enter
from executor.local.state import Child, Phase
from scepsy.errors import BackendError

RESTART_WINDOW_S = 600.0

MAX_RESTART_PAUSE_S = 30.0
"""Pauses before restarts double from one second up to this."""


class Unit:
    """A process and its restarts. ``number`` marks it within the deployment."""

    def __init__(self, name: str, number: int, port: int, log_path: Path, deployment: str, deadlines: Deadlines) -> None:
        self.name, self.number, self.port, self.log_path = name, number, port, log_path
        self._deployment, self._deadlines = deployment, deadlines
        self.process: subprocess.Popen[bytes] | None = None
        self.born = ""
        self.phase: Phase = "starting"
        self.problem = ""
        self.restarts = 0
        self.recent: deque[float] = deque()
        self.again_s = 0.0
        self.healthy_by_s = 0.0
        self.health = EngineHealth(deadlines, time.monotonic())

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def child(self, llm: str = "") -> Child:
        """What the state tells of it."""
        return Child(
            name=self.name,
            pid=self.process.pid if self.process else 0,
            born=self.born,
            phase=self.phase,
            restarts=self.restarts,
            llm=llm,
            url=self.url,
            log=str(self.log_path),
            problem=self.problem,
        )

    def spawn(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        *,
        folder: Path,
        start_s: float,
        group: Path | None = None,
        cores: tuple[int, ...] = (),
    ) -> None:
        """Start it; it is to be healthy within ``start_s``. Raises ``BackendError`` when it cannot be started."""
        deployment, number, pen = self._deployment, self.number, make_pen(self._deployment, self.name)

        def prepare() -> None:
            put_limit(deployment, number)
            with contextlib.suppress(OSError):  # the pen is one of three marks
                enter(pen, ())
            enter(group, cores)

        sink = open_log(self.log_path)
        try:
            self.process = subprocess.Popen(
                list(command),
                env={**env, MARK: deployment},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                cwd=folder,
                start_new_session=True,
                preexec_fn=prepare,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise BackendError(f"{self.name}: {command[0]} cannot be started: {error}") from error
        finally:
            os.close(sink)
        self.born = born(self.process.pid)
        self.health = EngineHealth(self._deadlines, time.monotonic())
        self.healthy_by_s = time.monotonic() + start_s

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self.process.poll() if self.process is not None else None

    def end(self, timeout_s: float) -> None:
        """End it and everything that it started, and nothing else."""
        stop_marked(Which(deployment=self._deployment, number=self.number, instance=self.name), timeout_s)
        if self.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)

    def again_after_failure(self, now_s: float, problem: str, at_most: int | None) -> bool:
        """Note a failure and plan the next start, later each time; False when it is given up (``at_most`` in ten minutes)."""
        while self.recent and now_s - self.recent[0] > RESTART_WINDOW_S:
            self.recent.popleft()
        self.problem = problem
        if at_most is not None and len(self.recent) >= at_most:
            self.phase = "failed"
            return False
        self.again_s = now_s + min(2.0 ** len(self.recent), MAX_RESTART_PAUSE_S)
        self.recent.append(now_s)
        self.phase = "restarting"
        return True
