"""``python -m executor.local FOLDER``: the supervisor process of one deployment; started by ``deployment.apply``."""

import asyncio
import logging
import os
import sys
from pathlib import Path

from executor.local.state import MARK, Child, State, born_s, locked, save_state
from executor.local.supervisor import Supervisor, left_options
from scepsy.errors import ScepsyError
from scepsy.files.plan import load_plan
from scepsy.files.profiles import load_profiles


def main(folder: Path) -> int:
    """Run a deployment until it is told to stop; 0 when it stopped as told, 4 when it failed."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    deployment = os.environ[MARK]
    with locked(folder):
        try:
            supervisor = Supervisor(
                folder,
                load_plan(folder / "plan.yaml"),
                load_profiles(folder / "profiles.yaml"),
                left_options(folder),
                deployment,
            )
        except ScepsyError as error:
            me = Child(name="supervisor", pid=os.getpid(), born_s=born_s(os.getpid()), phase="failed")
            save_state(folder, State(deployment=deployment, phase="failed", supervisor=me, problem=str(error)))
            return error.exit_code
        asyncio.run(supervisor.run())
        return 0 if supervisor.phase == "stopped" else 4


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
