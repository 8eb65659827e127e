"""Text for terminals and files that know only ASCII: a codec error handler that writes what is nearest."""

import codecs
import unicodedata

NEAREST = {
    "–": "-", "—": "-", "−": "-", "…": "...", "·": ".", "×": "x", "→": "->", "←": "<-", "≤": "<=", "≥": ">=", "≈": "~",
    "∞": "inf", "λ": "lambda", "ρ": "rho", "σ": "sigma", "µ": "u", "μ": "u", "Δ": "d", "±": "+-", "²": "^2", "³": "^3",
    "✓": "ok", "✗": "x", "•": "*", "█": "#", "▇": "#", "▆": "#", "▅": "#", "▄": "#", "▃": "#", "▂": "#", "▁": "#",
    "“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "°": " deg", "½": "1/2", "€": "EUR", "√": "sqrt", "∑": "sum",
}  # fmt: skip


def ascii_of(text: str) -> str:
    """The nearest ASCII.

    >>> ascii_of("λ ≥ 3 – naïve 漢")
    'lambda >= 3 - naive ?'
    """
    return "".join(NEAREST.get(each) or _stripped(each) for each in text)


def _stripped(character: str) -> str:
    if character.isascii():
        return character
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return plain or "?"


def _handle(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return ascii_of(error.object[error.start : error.end]), error.end


HANDLER = "scepsy-ascii"
codecs.register_error(HANDLER, _handle)
