"""One self-contained HTML page: tables, pictures and words; nothing is loaded from elsewhere."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import jinja2
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from scepsy.files.atomic import atomic_path


@dataclass(frozen=True)
class Table:
    """A table with a caption; cells are text or numbers."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure with a caption; ``name`` is its PNG's file name."""

    name: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs, then tables and pictures in order."""

    title: str
    paragraphs: Sequence[str] = ()
    items: Sequence[Table | Picture] = field(default=())


def cell(value: object) -> str:
    """A table cell as text: four significant digits, a dash for nothing, ∞ for infinity.

    >>> cell(3.14159), cell(float("inf")), cell(None), cell(12)
    ('3.142', '∞', '–', '12')
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if math.isnan(value):
            return "–"
        return "∞" if math.isinf(value) else f"{value:.4g}"
    return str(value)


def png(figure: Figure) -> bytes:
    """The figure as PNG bytes, without a date, so that the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def write_page(path: Path, title: str, lead: str, sections: Sequence[Section], facts: Sequence[tuple[str, str]]) -> list[Path]:
    """Write the page and, beside it, each picture as a PNG. Returns the files written. Pictures are closed afterwards.

    ``facts`` are shown at the end as what the result rests on: assumptions, versions, seeds, commands.
    """
    written: list[Path] = []
    path.parent.mkdir(parents=True, exist_ok=True)
    rendered = []
    for section in sections:
        items: list[dict[str, object]] = []
        for item in section.items:
            if isinstance(item, Table):
                rows = [[cell(value) for value in row] for row in item.rows]
                numeric = [
                    all(isinstance(row[i], (int, float)) or row[i] is None for row in item.rows)
                    for i in range(len(item.columns))
                ]
                items.append({"table": item, "rows": rows, "numeric": numeric})
            else:
                data = png(item.figure)
                plt.close(item.figure)
                target = path.parent / f"{item.name}.png"
                with atomic_path(target) as aside:
                    aside.write_bytes(data)
                written.append(target)
                items.append({"picture": item, "data": base64.b64encode(data).decode()})
        rendered.append({"title": section.title, "paragraphs": section.paragraphs, "items": items})
    template = resources.files("scepsy.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    html = environment.from_string(template).render(title=title, lead=lead, sections=rendered, facts=facts)
    with atomic_path(path) as aside:
        aside.write_text(html, encoding="utf-8")
    return [path, *written]
