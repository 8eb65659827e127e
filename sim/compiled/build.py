"""The core's machine code: made once for this processor, kept in the cache folder, loaded from there.

``translate`` writes the core as one module of LLVM's language, which llvmlite compiles: 1.5 s of processor time in all, most of
it LLVM's. The file's name is a hash of the sources, of the version of LLVM, and of the processor with its features, and the
file begins with a hash of the rest: one that is cut off or changed is made again. Where the folder cannot be written,
every process makes its own.
"""

import ctypes
import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from scepsy.errors import SimulationError
from scepsy.files.cache import cache_dir

Advance = Callable[[int, int], int]

_DIGEST_BYTES = 32


class NotLoaded(SimulationError):
    """The compiler or the processor does not take the core."""


@cache
def advance() -> Advance:
    """``core.advance`` as machine code, which runs without the interpreter's lock. Raises ``NotLoaded``."""
    try:
        return loaded(_kept() or _made(), "advance")
    except RuntimeError as error:  # what LLVM says: no such processor, no memory that may be executed
        why = str(error).strip().partition(chr(10))[0]
        raise NotLoaded(f"the core cannot be compiled here: {why} (use engine 'simpy')") from error


def is_kept() -> bool:
    """Whether no compilation is needed: it is loaded, or there is a file of it."""
    return advance.cache_info().currsize > 0 or _kept() is not None


def _kept() -> bytes | None:
    try:
        content = _path().read_bytes()
    except OSError:
        return None
    digest, code = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return code if hashlib.sha256(code).digest() == digest else None


def _made() -> bytes:
    """Compile, and keep the result if that is possible."""
    from sim.compiled.core import advance
    from sim.compiled.translate import translated

    code = machine_code(translated(advance, "advance"))
    path = _path()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(code).digest() + code)
            os.replace(name, path)
        except OSError:
            os.unlink(name)
    return code


@cache
def _path() -> Path:
    import llvmlite
    import llvmlite.binding as llvm

    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    digest.update(repr((llvmlite.__version__, llvm.llvm_version_info, _processor())).encode())
    return cache_dir() / "core" / f"{digest.hexdigest()[:32]}.o"


@cache
def _processor() -> tuple[str, str, str]:
    import llvmlite.binding as llvm

    return llvm.get_process_triple(), llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()


@cache
def _target() -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    triple, name, features = _processor()
    target = llvm.Target.from_triple(triple)
    return target.create_target_machine(cpu=name, features=features, opt=3, reloc="pic", codemodel="default")


def machine_code(text: str) -> bytes:
    """A module of LLVM's language as an object file."""
    import llvmlite.binding as llvm

    module = llvm.parse_assembly(text)
    module.verify()
    builder = llvm.create_pass_builder(_target(), llvm.create_pipeline_tuning_options(speed_level=3))
    builder.getModulePassManager().run(module, builder)
    return bytes(_target().emit_object(module))


_alive: list[Any] = []
"""What the loaded code needs as long as the process lives."""


def loaded(code: bytes, name: str) -> Advance:
    """A function of an object file, of two whole numbers that gives one."""
    import llvmlite.binding as llvm

    linker = llvm.create_lljit_compiler(_target())
    library = llvm.JITLibraryBuilder().add_object_img(code).add_current_process().export_symbol(name).link(linker, "core")
    _alive.extend((linker, library))
    return ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(library[name])
