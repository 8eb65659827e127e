"""The page of ``explore``: one HTML file with data, program, style and chart library inside; it asks nothing of any server."""

import json
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from scepsy.files.atomic import atomic_path
from scepsy.report.style import PALETTE


def write_explorer(path: Path, explored: Any, *, title: str, notes: list[str], start: dict[str, Any]) -> None:
    """Write the page of an ``api.explore.Explored``.

    ``notes``: what it rests on. ``start``: the first position of the sliders. Raises ``InputError``.
    """
    ours = resources.files("scepsy.report")
    data = json.dumps({**asdict(explored), "palette": list(PALETTE), "start": start}, separators=(",", ":"), allow_nan=False)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    text = environment.from_string(ours.joinpath("explorer.html.j2").read_text(encoding="utf-8")).render(
        title=title,
        notes=notes,
        data=data.replace("</", "<\\/"),
        program=ours.joinpath("explorer.js").read_text(encoding="utf-8"),
        chart_program=ours.joinpath("uplot", "uPlot.iife.min.js").read_text(encoding="utf-8").replace("</script", "<\\/script"),
        chart_style=ours.joinpath("uplot", "uPlot.min.css").read_text(encoding="utf-8"),
        chart_licence=ours.joinpath("uplot", "LICENSE").read_text(encoding="utf-8"),
    )
    with atomic_path(path) as aside:
        aside.write_text(text, encoding="utf-8")
