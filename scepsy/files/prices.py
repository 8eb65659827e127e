"""Price files: ``format: scepsy.prices`` as YAML, one's own prices per GPU-hour over the built-in ones."""

from pathlib import Path

from scepsy.cost import PriceList
from scepsy.files.document import read_yaml, write_yaml

FORMAT, VERSION = "scepsy.prices", 1


def load_prices(path: str | Path) -> PriceList:
    """Read prices. Raises ``InputError`` naming file, line, field and remedy."""
    return read_yaml(path, PriceList, FORMAT, VERSION)


def save_prices(path: str | Path, prices: PriceList) -> None:
    """Write prices, atomically."""
    write_yaml(path, prices, FORMAT, VERSION)
