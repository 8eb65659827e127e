"""The command line. One module per family of commands; heavy imports happen inside the commands."""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from scepsy.cli import (
    advice,
    compare,
    demo,
    deploy,
    doctor,
    experiment,
    explore,
    export,
    figures,
    gateway,
    model,
    operate,
    plan,
    profile,
    profile_make,
    report,
    trace,
    trace_import,
)
from scepsy.cli import simulate as simulating
from scepsy.signals import arm
from scepsy.version import __version__

TRACE, PROFILE, PLAN = "1. What the workflow asks", "2. What the LLMs can do", "3. Plan"
CHECK, DEPLOY, EVALUATE = "4. Check before deploying", "5. Deploy and measure", "6. Evaluate"
HELP = "7. When something does not work"


UsageError = cast(type[Exception], typer.BadParameter.__bases__[0])
"""What a wrong option or argument raises, whichever click typer brings along."""


class Commands(TyperGroup):
    """Lists commands panel by panel in the order of use, and answers a wrong option in one line."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names sorted by panel (their numbers are the order of use); within a panel as they were added."""
        return sorted(super().list_commands(ctx), key=lambda name: str(getattr(self.commands[name], "rich_help_panel", "")))

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line; see ``typer.core.TyperGroup.main``."""
        run = partial(super().main, args, prog_name, complete_var, False, windows_expand_args, **extra)
        if not standalone_mode:
            return run()
        try:
            outcome = run()
        except UsageError as caught:
            error: Any = caught
            if not error.format_message():  # a group without a command: its help was asked for
                error.show()
                sys.exit(error.exit_code)
            path = error.ctx.command_path if error.ctx else "scepsy"
            print(f"{path}: {' '.join(error.format_message().split())} (see: {path} --help)", file=sys.stderr)
            sys.exit(error.exit_code)
        sys.exit(outcome if isinstance(outcome, int) else 0)


app = typer.Typer(
    cls=Commands,
    name="scepsy",
    help="Plan, simulate and run multi-LLM agentic workflows on a GPU cluster.",
    epilog="Start with `scepsy demo`, or with `scepsy trace --help` for your own workflow. `scepsy doctor` says what works.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"scepsy {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Plan, simulate and run multi-LLM agentic workflows on a GPU cluster."""


trace_import.register(trace.app)
export.register(trace.app)
app.add_typer(trace.app, rich_help_panel=TRACE)
app.command(rich_help_panel=TRACE)(gateway.gateway)
profile_make.register(profile.app)
app.add_typer(profile.app, rich_help_panel=PROFILE)
app.add_typer(model.app, rich_help_panel=PROFILE)
app.command(rich_help_panel=PLAN)(plan.plan)
app.command(rich_help_panel=PLAN)(advice.frontier)
app.command(rich_help_panel=PLAN)(explore.explore)
app.command(rich_help_panel=PLAN)(advice.admit)
app.command(rich_help_panel=PLAN)(advice.changes)
app.command(rich_help_panel=CHECK)(plan.predict)
app.command(rich_help_panel=CHECK)(simulating.simulate)
app.command(rich_help_panel=CHECK)(simulating.validate)
app.command(rich_help_panel=CHECK)(report.report)
deploy.register(app, panel=DEPLOY)
app.command(rich_help_panel=DEPLOY)(operate.operate)
app.command(rich_help_panel=DEPLOY)(compare.compare)
app.command(rich_help_panel=EVALUATE)(demo.demo)
app.command(rich_help_panel=HELP)(doctor.doctor)
app.add_typer(experiment.app, rich_help_panel=EVALUATE)
app.command(rich_help_panel=EVALUATE)(figures.figures)


def main() -> None:
    """Run the command line; ``scepsy.start:main`` is the way in that also takes signals in hand while this is imported."""
    arm()
    app()
