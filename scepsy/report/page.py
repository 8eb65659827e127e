"""One self-contained HTML page: tables, pictures and words; nothing is loaded from elsewhere."""

import html
import io
import math
import re
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
    """A figure with a caption; ``name`` is the name of its SVG file."""

    name: str
    caption: str
    figure: Figure | bytes
    """Drawn, or an SVG file that was drawn elsewhere."""


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs, then tables and pictures in order."""

    title: str
    paragraphs: Sequence[str] = ()
    items: Sequence[Table | Picture] = field(default=())


@dataclass(frozen=True)
class Verdict:
    """The one sentence that a page is opened for."""

    good: bool | None
    """None: not known."""
    sentence: str


LONGEST_UNBROKEN = 24
"""Characters of a cell that is not broken over lines: a type of GPU, a mean with its half-width. Wide tables scroll."""


def cell(value: object) -> str:
    """A table cell as text: three significant digits, whole numbers whole, a dash for nothing, ∞ for infinity.

    >>> cell(3.14159), cell(1234.56), cell(float("inf")), cell(None), cell(12), cell(0.98765), cell(0.00001234)
    ('3.14', '1,235', '∞', '–', '12', '0.988', '1.23e-05')
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if math.isnan(value):
            return "–"
        if math.isinf(value):
            return "∞"
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def with_width(value: float | None, half_width: float | None) -> str:
    """A mean with its 95 % half-width, both to the digit that the half-width (in one or two figures) deserves.

    >>> with_width(12.3456, 0.234), with_width(1.5, float("inf")), with_width(None, None), with_width(81.27, 3.9)
    ('12.35 ± 0.23', '1.5 ± ?', '–', '81.3 ± 3.9')
    """
    if value is None or not math.isfinite(value):
        return cell(value)
    if half_width is None or not math.isfinite(half_width) or half_width <= 0:
        return f"{cell(value)} ± ?" if half_width != 0 else cell(value)
    digits = max(0, 1 - math.floor(math.log10(half_width)))
    return f"{value:.{digits}f} ± {half_width:.{digits}f}"


def svg(figure: Figure | bytes) -> bytes:
    """The figure as SVG with its text as text, without a date, so that the same figure gives the same bytes. Closes it."""
    if isinstance(figure, bytes):
        return figure
    buffer = io.BytesIO()
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "scepsy"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return buffer.getvalue()


BY_THEME = {
    "#000000": "currentColor",
    "#ffffff": "var(--paper)",
    "#dddddd": "var(--grid)",
    "#f4f4f4": "var(--empty)",
    "#e8f0e8": "var(--band)",
    "#555555": "var(--soft)",
}
"""Colours of a drawing that follow the page's, light or dark."""


def inline(drawing: bytes, label: str) -> str:
    """An SVG file as an element of a page: no prologue, as wide as there is room, colours that follow the page's theme."""
    text = drawing.decode("utf-8")
    text = text[text.index("<svg") :]
    head, _, rest = text.partition(">")
    size = re.search(r'viewBox="0 0 ([\d.]+) ', head)
    width = float(size[1]) * 96 / 72 if size else 640.0
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    name = html.escape(label, quote=True)
    head += f' role="img" aria-label="{name}" style="width:100%;max-width:{width:.0f}px;min-width:{min(width, 560):.0f}px"'
    for colour, themed in BY_THEME.items():
        rest = re.sub(rf"((?:fill|stroke|stop-color): ?){colour}", rf"\g<1>{themed}", rest, flags=re.IGNORECASE)
    # Text without a colour of its own is black by default.
    rest = re.sub(r'<text style="(?![^"]*fill:)', '<text style="fill: currentColor; ', rest)
    return f"{head}>{rest}"


Fact = tuple[str, str | Sequence[str]]
"""A name and what is to be said of it, in one text or a list."""


def write_page(
    path: Path, title: str, lead: str, sections: Sequence[Section], facts: Sequence[Fact], verdict: Verdict | None = None
) -> list[Path]:
    """Write the page and, beside it, each picture as an SVG file. Returns the files written. Pictures are closed afterwards.

    ``verdict`` stands on top. ``facts`` stand at the end as what the result rests on: assumptions, versions, seeds, commands.
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
                brief = [all(len(row[i]) <= LONGEST_UNBROKEN for row in rows) for i in range(len(item.columns))]
                items.append({"table": item, "rows": rows, "numeric": numeric, "brief": brief})
            else:
                data = svg(item.figure)
                target = path.parent / f"{item.name}.svg"
                with atomic_path(target) as aside:
                    aside.write_bytes(data)
                written.append(target)
                items.append({"picture": item, "drawing": inline(data, item.caption)})
        rendered.append({"title": section.title, "paragraphs": section.paragraphs, "items": items})
    template = resources.files("scepsy.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = environment.from_string(template).render(title=title, lead=lead, sections=rendered, facts=facts, verdict=verdict)
    with atomic_path(path) as aside:
        aside.write_text(text, encoding="utf-8")
    return [path, *written]
