"""Tables as Markdown, LaTeX and CSV, the same bytes every time."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd


def cell(value: object) -> str:
    """Four significant digits; a dash for nothing."""
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def save(frame: pd.DataFrame, output: Path, name: str, caption: str) -> None:
    """Write the table in its three forms."""
    columns = list(frame.columns)
    rows = [[cell(value) for value in row] for row in frame.itertuples(index=False)]
    (output / f"{name}.md").write_text(markdown(columns, rows, caption), encoding="utf-8")
    (output / f"{name}.tex").write_text(latex(columns, rows, caption), encoding="utf-8")
    frame.to_csv(output / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """A Markdown table with its caption below."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", caption, ""])


def latex(columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """A LaTeX tabular in a table."""
    body = " \\\\\n".join(" & ".join(map(escape, row)) for row in rows)
    head = " & ".join(map(escape, columns))
    spec = "l" * len(columns)
    return (
        f"\\begin{{table}}\n\\caption{{{escape(caption)}}}\n\\begin{{tabular}}{{{spec}}}\n\\hline\n{head} \\\\\n\\hline\n"
        f"{body} \\\\\n\\hline\n\\end{{tabular}}\n\\end{{table}}\n"
    )


def escape(text: str) -> str:
    """LaTeX's special characters, escaped."""
    for character in "&%$#_{}":
        text = text.replace(character, f"\\{character}")
    return text.replace("–", "--").replace("×", "$\\times$")
