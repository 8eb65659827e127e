"""The command line. One module per family of commands; heavy imports happen inside the commands."""

import typer

from scepsy.cli import advice, compare, demo, deploy, experiment, export, figures, gateway, plan, profile, profiling, trace

app = typer.Typer(
    name="scepsy",
    help="Plan, simulate and run multi-LLM agentic workflows on a GPU cluster.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(demo.demo)
for verb in (plan.plan, plan.predict, plan.simulate, plan.validate, plan.report, advice.frontier, advice.admit, advice.changes):
    app.command()(verb)
profiling.register(profile.app)
app.add_typer(profile.app)
export.register(trace.app)
app.add_typer(trace.app)
app.command()(gateway.gateway)
app.command()(compare.compare)
deploy.register(app)
app.add_typer(experiment.app)
app.command()(figures.figures)


def main() -> None:
    """Entry point of the ``scepsy`` command."""
    app()
