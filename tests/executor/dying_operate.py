"""``scepsy operate`` that is killed (-9) at a stage: ``python dying_operate.py STAGE operate …``.

A stage is ``before KIND`` or ``after KIND`` for a kind of line of its log, or ``in PHASE`` for a phase of the switch.
"""

import os
import signal
import sys

from executor.local import deployment
from executor.operate.journal import Entry, Journal
from scepsy.cli import main


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(stage: str) -> None:
    append, switch = Journal.append, deployment.switch

    def dying_append(self: Journal, entry: Entry) -> Entry:
        if stage == f"before {entry.kind}":
            die()
        made = append(self, entry)
        if stage == f"after {entry.kind}":
            die()
        return made

    def dying_switch(folder, plan, notify, token):  # type: ignore[no-untyped-def]
        def heard(line: str) -> None:
            notify(line)
            if line.startswith(f"switch: {stage.removeprefix('in ')}"):
                die()

        return switch(folder, plan, heard, token)

    Journal.append = dying_append  # type: ignore[method-assign]
    deployment.switch = dying_switch


if __name__ == "__main__":
    arm(sys.argv.pop(1))
    main()
