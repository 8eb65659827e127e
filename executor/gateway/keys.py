"""The keys that may call: where they come from, and whether one is among them. Only their digests are kept."""

import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from executor.gateway.config import GatewayConfig
from scepsy.errors import InputError

MAX_KEYS = 10_000
"""Every key is compared on every request (constant time), so there is a bound."""

MAX_SPLITS = 8
"""A key may hold ``#`` itself, so each ``#`` of what was sent may be the one before the run. At most so many are tried."""

_COMMENT = re.compile(r"(^|\s)#.*")
_KEY = re.compile(r"[\x21-\x7e]+")
_TOKEN = re.compile(r"[^\s,;=\"']+")


class KeyRing:
    """The keys that may call."""

    def __init__(self, keys: Iterable[str]) -> None:
        keys = list(keys)
        self._digests = [_digest(key) for key in keys]
        self._known = frozenset(self._digests)
        self._lengths = frozenset(map(len, keys))

    def __len__(self) -> int:
        return len(self._digests)

    def admits(self, key: str) -> bool:
        """Whether ``key`` is one of ours (always, when there are none), in time that does not depend on which."""
        if not self._digests:
            return True
        digest, found = _digest(key), False
        for known in self._digests:
            found |= hmac.compare_digest(digest, known)
        return found

    def split(self, sent: str) -> tuple[bool, str]:
        """Whether what a client sent is a key of ours, and the run it names: ``<key>`` or ``<key>#<run>``.

        Keys may hold ``#``: the longest beginning that is a key wins, so a whole key never names a run.

        >>> KeyRing(["a#b"]).split("a#b"), KeyRing(["a#b"]).split("a#b#run-7"), KeyRing(["a#b"]).split("a")
        ((True, ''), (True, 'run-7'), (False, ''))
        """
        if not self._digests:
            return True, sent.partition("#")[2]
        if self.admits(sent):
            return True, ""
        at = len(sent)
        for _ in range(MAX_SPLITS):
            at = sent.rfind("#", 0, at)
            if at < 0:
                break
            if self.admits(sent[:at]):
                return True, sent[at + 1 :]
        return False, ""

    def holds_key(self, value: str) -> bool:
        """Whether a header's value holds one of our keys, alone or among other things."""
        for length in self._lengths:
            if len(value) >= length:
                break
        else:
            return False
        for token in (value.strip(), *_TOKEN.findall(value)):
            if len(token) in self._lengths and _digest(token) in self._known:
                return True
            if "#" in token and any(
                at in self._lengths and _digest(token[:at]) in self._known for at in range(len(token)) if token[at] == "#"
            ):
                return True
        return False


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()


def load_keys(config: GatewayConfig, folder: Path, environ: Mapping[str, str] = os.environ) -> KeyRing:
    """Collect the configured keys. Raises ``InputError`` for a variable that is unset, a file without keys, or a key that
    no header can carry.

    Messages name where a key should be, never a key.
    """
    keys = []
    for variable in config.api_keys_env:
        if not environ.get(variable):
            raise InputError(f"api_keys_env: {variable} is not set: must hold an API key (export it)")
        keys.append(_checked(environ[variable], f"api_keys_env: {variable}"))
    if config.api_keys_file:
        keys += _read(folder / config.api_keys_file)
    if len(keys) > MAX_KEYS:
        raise InputError(f"api_keys_file: {len(keys)} keys: must be at most {MAX_KEYS}")
    return KeyRing(keys)


def _read(path: Path) -> list[str]:
    """One key a line. A comment begins with a ``#`` at the line's begin or after a space, so keys may hold others."""
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise InputError(f"api_keys_file: {path} cannot be read: {error.strerror} (create it, one key a line)") from error
    except UnicodeDecodeError:
        raise InputError(f"api_keys_file: {path} is not text: must hold one key a line") from None
    found = []
    for number, line in enumerate(lines, 1):
        key = _COMMENT.sub("", line).strip()
        if key:
            found.append(_checked(key, f"api_keys_file: {path}: line {number}"))
    if not found:
        raise InputError(f"api_keys_file: {path} holds no key: must hold one a line")
    return found


def _checked(key: str, where: str) -> str:
    if not _KEY.fullmatch(key):
        raise InputError(f"{where} is no key: must be printable ASCII without spaces (no header can carry another)")
    return key
