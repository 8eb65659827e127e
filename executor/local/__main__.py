"""``python -m executor.local FOLDER``: the supervisor process of one deployment; started by ``deployment.apply``."""

import asyncio
import contextlib
import logging
import os
import sys
from pathlib import Path

from executor.local.folder import SUPERVISOR_LOCK, locked, require_own
from executor.local.identity import born
from executor.local.marks import MARK
from executor.local.state import Child, State, save_state
from executor.local.supervisor import Supervisor, left_options
from scepsy.errors import ScepsyError
from scepsy.files.plan import load_plan
from scepsy.files.profiles import load_profiles


def main(folder: Path) -> int:
    """Run a deployment until it is told to stop; 0 when it stopped as told, 4 when it failed."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    deployment = os.environ[MARK]
    require_own(folder)
    with locked(folder, SUPERVISOR_LOCK, "another supervisor"):
        try:
            supervisor = Supervisor(
                folder,
                load_plan(folder / "plan.yaml"),
                load_profiles(folder / "profiles.yaml"),
                left_options(folder),
                deployment,
            )
        except ScepsyError as error:
            me = Child(name="supervisor", pid=os.getpid(), born=born(os.getpid()), phase="failed")
            with contextlib.suppress(OSError):
                save_state(folder, State(deployment=deployment, phase="failed", supervisor=me, problem=str(error)))
            print(error, file=sys.stderr)
            return error.exit_code
        asyncio.run(supervisor.run())
        return 0 if supervisor.phase == "stopped" else 4


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
