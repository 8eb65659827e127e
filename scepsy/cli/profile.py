"""``scepsy profile``: where step models come from, and how well they hold."""

import typer

app = typer.Typer(name="profile", help="Profiles of LLMs on GPUs: run, import, fit, show, validate.", no_args_is_help=True)
