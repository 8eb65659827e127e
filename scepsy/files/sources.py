"""A hash of the program's own sources that a result depends on, so that what is cached is never older than the program.

Dependencies are the import statements themselves, followed through all first-party packages, those inside functions included.
Nothing is imported to find them.
"""

import ast
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("scepsy", "sim", "executor", "experiments")
DATA = "scepsy/data"
"""Tables that modules read by name: every one of them counts for every result."""


def _file_of(module: str) -> Path | None:
    base = ROOT / module.replace(".", "/")
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.exists():
            return path
    return None


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """The statements inside, at any depth. Expressions, which are most of a tree and import nothing, are left out."""
    for part in ("body", "orelse", "finalbody", "handlers", "cases"):
        for child in getattr(node, part, ()):
            yield child
            yield from _statements(child)


@functools.cache
def imports_of(module: str) -> frozenset[str]:
    """First-party modules that a module's source imports, anywhere in the file; packages above them included."""
    path = _file_of(module)
    if path is None:
        return frozenset()
    named: set[str] = set()
    for node in _statements(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            named.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            named.add(node.module)
            named.update(f"{node.module}.{alias.name}" for alias in node.names)
    ours = {name for name in named if name.split(".")[0] in PACKAGES and _file_of(name)}
    return frozenset(above for name in ours for above in _with_packages(name))


def _with_packages(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _inside(module: str) -> list[str]:
    """The module, and for a package every module in its folder."""
    path = _file_of(module)
    if path is None:
        raise ValueError(f"no first-party module {module!r}")
    if path.name != "__init__.py":
        return [module]
    return [module, *(f"{module}.{child.stem}" for child in sorted(path.parent.glob("*.py")) if child != path)]


def sources_of(*modules: str) -> list[Path]:
    """Every first-party file that the modules depend on, themselves and data tables included, in order of path.

    A package stands for the modules in its folder. Raises ``ValueError`` for a name that is no first-party module.
    """
    waiting = [name for module in modules for name in _inside(module)]
    seen: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += imports_of(module) - seen
    files = {path for path in map(_file_of, seen) if path is not None}
    return sorted(files | set((ROOT / DATA).glob("*.yaml")))


@functools.cache
def sources_hash(*modules: str) -> str:
    """Sixteen hex digits over names and contents of ``sources_of(*modules)``."""
    digest = hashlib.sha256()
    for path in sources_of(*modules):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(ROOT).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:16]
