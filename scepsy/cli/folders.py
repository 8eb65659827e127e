"""Folders of text files that a command writes."""

from collections.abc import Mapping
from pathlib import Path

from scepsy.errors import InputError
from scepsy.files.atomic import atomic_path


def write_folder(folder: Path, texts: Mapping[str, str], option: str) -> None:
    """Write each text to its path below the folder, no file half. Raises ``InputError`` naming the option when that fails."""
    try:
        for name, text in texts.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as aside:
                aside.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{option} is {str(folder)!r}: cannot be written: {error.strerror} (name another folder)") from error
