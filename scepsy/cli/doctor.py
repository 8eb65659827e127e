"""``doctor``: what works on this machine, what is missing, and the command that mends it."""

from dataclasses import asdict

import typer

from scepsy.cli.options import Csv, Json
from scepsy.cli.output import command, emit_json, show_table, stdout


@command
def doctor(as_csv: Csv = False, as_json: Json = False) -> None:
    """Say what works here, what is missing, and the command that mends it.

    Python, extras, cache, engine, GPUs with MPS, and the cluster with DRA are looked at.

    Exit code 1 when something is broken, or missing that planning and simulating need. Nothing is changed.

    Example: `scepsy doctor`
    """
    from scepsy.api.doctor import examine

    found = examine()
    ok = not any(each.standing == "broken" or (each.needed and each.standing != "works") for each in found)
    if as_json:
        emit_json({"ok": ok, "findings": [asdict(each) for each in found]})
    else:
        show_table(
            "This machine",
            ["", "what", "found"],
            [[each.standing, each.name, each.found] for each in found],
        )
        for each in found:
            if each.mend:
                stdout.print(f"{each.name}, for {each.needed_for}:", highlight=False, markup=False)
                stdout.print(f"  {each.mend}", highlight=False, markup=False, soft_wrap=True)
        stdout.print("Planning and simulating work." if ok else "Something is broken, see above.", highlight=False)
    if not ok:
        raise typer.Exit(1)
