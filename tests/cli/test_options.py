"""Choices that ``--help`` shows are those that the program knows, and one option means one thing in every command."""

import ast
import inspect
import typing
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.core import TyperGroup
from typer.testing import CliRunner

import scepsy.cli
from scepsy.api.forecast import PREDICTORS
from scepsy.capabilities import TARGETS
from scepsy.cli import app
from scepsy.cli import options as shared
from scepsy.search import PLANNERS
from sim.policies.orders import QUEUE_ORDERS
from sim.policies.routers import ROUTERS
from sim.policies.systems import ADAPTIVE, OTHER_ENGINES, SYSTEMS
from sim.world.choice import ENGINES

CHOICES = {
    "--planner": (shared.PlannerName, PLANNERS),
    "--predictor": (shared.PredictorName, PREDICTORS),
    "--router": (shared.RouterName, ROUTERS),
    "--queue-order": (shared.QueueOrderName, ("fcfs", *QUEUE_ORDERS)),
    "--system": (shared.SystemName, (*SYSTEMS, ADAPTIVE, *OTHER_ENGINES)),
    "--engine": (shared.EngineName, ENGINES),
    "--target": (shared.TargetName, TARGETS),
}


@pytest.mark.parametrize("option", CHOICES)
def test_the_choices_are_the_registry(option: str) -> None:
    literal, known = CHOICES[option]
    assert set(typing.get_args(literal)) == set(known)


def commands(group: Any, path: str = "scepsy") -> typing.Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


CLI = Path(scepsy.cli.__file__).parent
ANOTHER_COMMAND_PRINTS_IT = {"apply", "trace import"}
"""What they print beside their work, ``status --csv`` and ``trace stats --csv`` print alone."""


def functions_that_print_tables() -> set[tuple[str, str]]:
    """(module, name) of the functions of the command line that call ``show_table``, themselves or through another."""
    calls: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for path in CLI.glob("*.py"):
        tree = ast.parse(path.read_text())
        ours = [
            node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and str(node.module).startswith("scepsy.cli")
        ]
        source = {
            alias.asname or alias.name: (str(node.module).rpartition(".")[2], alias.name)
            for node in ours
            for alias in node.names
        }
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                called = [each.func for each in ast.walk(node) if isinstance(each, ast.Call)]
                of_modules = {
                    (f.value.id, f.attr) for f in called if isinstance(f, ast.Attribute) and isinstance(f.value, ast.Name)
                }
                calls[path.stem, node.name] = of_modules | {
                    source.get(f.id, (path.stem, f.id)) for f in called if isinstance(f, ast.Name)
                }
    printing = {("output", "show_table")}
    while more := {here for here, called in calls.items() if called & printing} - printing:
        printing |= more
    return printing


def test_every_command_that_prints_a_table_prints_it_as_csv() -> None:
    printing = functions_that_print_tables()
    without, with_ = set(), set()
    for name, command in commands(typer.main.get_command(app)):
        function = inspect.unwrap(command.callback)
        if (function.__module__.rpartition(".")[2], function.__name__) in printing:
            (with_ if "as_csv" in inspect.signature(function).parameters else without).add(name.removeprefix("scepsy "))
    assert without == ANOTHER_COMMAND_PRINTS_IT
    assert {"status", "demo", "experiment list", "experiment run", "model show", "profile check"} <= with_


def test_every_command_shows_an_example() -> None:
    found = dict(commands(typer.main.get_command(app)))
    assert len(found) > 25
    assert [name for name, command in found.items() if "Example" not in (command.help or "")] == []


@pytest.mark.parametrize("words", [["plan", "-t", "t", "--rate", "1"], ["simulate", "p"], ["predict", "p"]])
def test_a_wrong_choice_is_answered_in_one_line_with_the_right_ones(words: list[str]) -> None:
    for option in CHOICES:
        result = CliRunner().invoke(app, [*words, option, "wrong"])
        if "No such option" in result.stderr:
            continue
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert f"scepsy {words[0]}: Invalid value for '{option}'" in result.stderr
        assert all(f"'{choice}'" in result.stderr for choice in typing.get_args(CHOICES[option][0]))


def test_panels_come_in_the_order_of_use() -> None:
    root: Any = typer.main.get_command(app)
    panels = [str(getattr(root.commands[name], "rich_help_panel", "")) for name in root.list_commands(None)]
    assert panels == sorted(panels)
    assert panels[0].startswith("1.")
