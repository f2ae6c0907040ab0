"""The machine code of the COPY BINARY decoder: compiled by numba once, for seconds, then kept on disk and loaded without numba.

Importing numba takes 0.3 s and 70 MB, at each start; llvmlite alone, which numba stands on, loads machine code in 0.05 s. numba's own cache needs numba.
The file's name tells what it was made from: the sources, the libraries and the processor; its first bytes are the hash of the others.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import secrets
import stat
import threading
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llvmlite.binding as llvm

from engine.postgres.copy_layout import LINE, TOLD

if TYPE_CHECKING:
    from collections.abc import Iterator

_SOURCES = ("copy_layout.py", "copy_kernel.py", "copy_numeric.py", "copy_rows.py", "copy_compiled.py")
_DIGEST_BYTES = hashlib.sha256().digest_size
_NAME = "ferry_decode"
_LIBRARY_CALLS = frozenset({"memcpy", "memmove", "memset"})  # of C, which every process has
_lock = threading.Lock()
_owners: list[Any] = []


def decoder() -> Any:
    """`copy_rows.decode` as a C function, which runs without the GIL.

    Its arguments: address and size of the source; rows that there is room for; columns; address of the lines, and how many; address and size of the arena;
    address of what it tells (`copy_layout.TOLD`). It gives how it ended.
    """
    with _lock:
        return _decoder()


@functools.cache
def _decoder() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    name = f"copy-decoder-{_key()}.o"
    for folder in _folders():
        with contextlib.suppress(OSError):
            kept = (folder / name).read_bytes() if _is_trusted(folder / name) else b""
            if hashlib.sha256(kept[_DIGEST_BYTES:]).digest() == kept[:_DIGEST_BYTES]:
                return _loaded(kept[_DIGEST_BYTES:])
    return _compiled(name)


def _key() -> str:
    """Of all that the machine code depends on; with NUMBA_BOUNDSCHECK=1 each index is checked."""
    parts = [(Path(__file__).parent / name).read_bytes() for name in _SOURCES]
    machine = (llvm.get_process_triple(), llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten())
    parts += [text.encode() for text in (metadata.version("numba"), metadata.version("llvmlite"), *machine, os.environ.get("NUMBA_BOUNDSCHECK", ""))]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _is_trusted(path: Path) -> bool:
    """Whether nobody wrote this who could not change the program itself: it will be run, and its hash says only that it is whole."""
    found = path.stat()
    return found.st_uid in (0, os.geteuid(), Path(__file__).stat().st_uid) and not found.st_mode & stat.S_IWOTH


def _folders() -> Iterator[Path]:
    """Where machine code may be kept: beside the module, as Python's own is, or in the user's cache; NUMBA_CACHE_DIR names another place."""
    if named := os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(named)
        return
    yield Path(__file__).parent / "__pycache__"
    with contextlib.suppress(RuntimeError):  # a user without a home
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "arrow-ferry"


def _compiled(name: str) -> Any:
    """Compile; keep the machine code in the first place that takes it."""
    from numba import carray, cfunc, types

    from engine.postgres.copy_rows import decode

    def ferry_decode(src: Any, size: int, most: int, columns: int, lines: Any, count: int, out: Any, room: int, told: Any) -> Any:
        return decode(carray(src, (size,)), most, columns, carray(lines, (count, LINE)), carray(out, (room,)), carray(told, (TOLD,)))

    number, numbers, octets = types.int64, types.CPointer(types.int64), types.CPointer(types.uint8)
    made = cfunc(number(octets, number, number, number, numbers, number, octets, number, numbers), error_model="numpy")(ferry_decode)
    code = _standalone(made.inspect_llvm(), made.native_name)
    if code is None:
        return _callable(made.address, made)
    for folder in _folders():
        with contextlib.suppress(OSError):
            _keep(folder / name, hashlib.sha256(code).digest() + code)
            break
    return _loaded(code)


def _standalone(text: str, entry: str) -> bytes | None:
    """Machine code of this LLVM module that needs nothing but the C library; None where that is not so.

    numba's wrapper around a function knows what to do when it raises. None of ours does, which LLVM sees once nobody else can call them.
    """
    module = llvm.parse_assembly(text)
    for function in module.functions:
        if not function.is_declaration and function.name != entry:
            function.linkage = "internal"
    module.get_function(entry).name = _NAME
    machine = _machine()
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    builder.getModulePassManager().run(module, builder)
    needed = {item.name for items in (module.functions, module.global_variables) for item in items if item.is_declaration}
    if any(name not in _LIBRARY_CALLS and not name.startswith("llvm.") for name in needed):
        return None
    return bytes(machine.emit_object(module))


def _machine() -> Any:
    features = llvm.get_host_cpu_features().flatten()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=3, codemodel="jitdefault", jit=True)


def _keep(path: Path, content: bytes) -> None:
    """Whole or not at all: other processes may look for it now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def _loaded(code: bytes) -> Any:
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return _callable(engine.get_function_address(_NAME), engine)


def _callable(address: int, owner: Any) -> Any:
    """The function at this address, which stands as long as its owner does."""
    _owners.append(owner)
    number, pointer = ctypes.c_int64, ctypes.c_void_p
    return ctypes.CFUNCTYPE(number, pointer, number, number, number, pointer, number, pointer, number, pointer)(address)
