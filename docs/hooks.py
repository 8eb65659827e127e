"""Pages of the site that are made from what is elsewhere: every command with its options, and the design notes."""

import ast
import re
from pathlib import Path
from typing import Any

import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from scepsy.cli import app


def _commands(group: Any, path: str) -> list[tuple[str, Any]]:
    found = []
    for name in group.list_commands(None):
        command = group.commands[name]
        full = f"{path} {name}"
        found += _commands(command, full) if hasattr(command, "commands") else [(full, command)]
    return found


def _cell(text: object) -> str:
    return " ".join(str(text or "").split()).replace("|", "\\|").replace("<", "&lt;")


def _section(path: str, command: Any) -> str:
    lines = [f"## {path}", "", (command.help or "").replace("\n\n\n", "\n\n"), ""]
    rows = []
    for parameter in command.params:
        names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
        if not names.strip("`").startswith("-"):
            names = f"`{parameter.metavar or parameter.name}`"
        default = parameter.default
        plain = default is None or callable(default) or default == ()
        given = "required" if parameter.required else "" if plain else f"`{default}`"
        rows.append(f"| {names} | {_cell(getattr(parameter, 'help', ''))} | {given} |")
    if rows:
        lines += ["| option | what it does | default |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def commands_page() -> str:
    """The page of all commands, in the order of ``scepsy --help``."""
    intro = (
        "# Commands\n\n"
        "Every command takes `--json` (one document on stdout) and `--help`. Progress and notes go to stderr. Without a "
        "terminal progress is a line every ten seconds.\n\n"
        "Commands that print tables take `--csv` as well. The first table comes as it is, each further one after an empty line "
        "and a line `# title`. What is said in words then goes to stderr.\n\n"
        "Tables adapt to the width of the terminal. In a pipe it is `COLUMNS`, or 240.\n\n"
        "`scepsy --install-completion` sets up completion for bash, zsh, fish or PowerShell, from the next shell on. "
        "`scepsy --show-completion` prints the script, for a folder of all users.\n\n"
        "`scepsy doctor` says what works on this machine, what is missing and what mends it.\n\n"
        "| exit code | meaning |\n|---|---|\n| 0 | done |\n| 1 | a check failed |\n| 2 | bad input or usage |\n"
        "| 3 | infeasible: says which LLM or resource binds |\n| 4 | simulation, engine or cluster error |\n"
        "| 130 | interrupted |\n\n"
    )
    return intro + "\n".join(_section(path, command) for path, command in _commands(typer.main.get_command(app), "scepsy"))


def deploy_options_page() -> str:
    """Every field of the deploy file with its default and meaning, from the value that reads it."""
    source = (Path(__file__).parents[1] / "executor" / "manifests" / "options.py").read_text(encoding="utf-8")
    kinds = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    lines = [
        "# Deploy options",
        "",
        "A deploy file (`--options deploy.yaml`) begins with `format: scepsy.deploy` and `version: 1`. Every field is "
        "optional, except that `gateway_image` must be given here or on the command line.",
        "",
    ]
    for name, title in (
        ("RenderOptions", "Fields"),
        ("Resources", "Resources"),
        ("Toleration", "Toleration"),
        ("Peer", "Peer"),
    ):
        lines += [f"## {title}", "", "| field | default | meaning |", "|---|---|---|"]
        for field, told in zip(kinds[name].body, kinds[name].body[1:], strict=False):
            if isinstance(field, ast.AnnAssign):
                text = ast.literal_eval(told.value) if isinstance(told, ast.Expr) else ""
                default = "" if field.value is None else ast.unparse(field.value)
                default = default.replace("msgspec.field(default_factory=dict)", "{}")
                lines.append(f"| `{ast.unparse(field.target)}` | {f'`{default}`' if default else ''} | {_cell(text)} |")
        lines.append("")
    return "\n".join(lines)


def design_page() -> str:
    """DESIGN.md with links that work from the site; files outside the docs are named without a link."""
    text = (Path(__file__).parents[1] / "DESIGN.md").read_text(encoding="utf-8")
    text = re.sub(r"\]\(docs/([\w.-]+\.md[^)]*)\)", r"](../\1)", text)
    return re.sub(r"\[([^\]]+)\]\((?!\.\./|https?:)[^)]*\)", r"\1", text)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    files.append(File.generated(config, "reference/commands.md", content=commands_page()))
    files.append(File.generated(config, "reference/deploy-options.md", content=deploy_options_page()))
    files.append(File.generated(config, "background/design.md", content=design_page()))
    return files
