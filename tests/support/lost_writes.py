"""The disks that a power failure might leave: what was flushed is there; of the rest, any part in any order may be.

A file's bytes are sure once it was flushed, its name (or its being gone) once its folder was. Unflushed writes are kept or lost
each on its own, the last kept one perhaps cut short at a sector.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512


@dataclass(frozen=True)
class Op:
    op: str
    name: str
    offset: int
    data: bytes


@dataclass
class _File:
    """`sure`: bytes on the disk; `maybe`: writes since the last flush."""

    sure: bytearray = field(default_factory=bytearray)
    maybe: list[Op] = field(default_factory=list)


def compile_recorder(folder: Path) -> Path | None:
    """None where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    library = folder / "recorded_disk.so"
    source = Path(__file__).with_name("recorded_disk.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


def recording(library: Path, folder: Path, tape: Path) -> dict[str, str]:
    """The environment of a process that is to be recorded."""
    return {
        **os.environ,
        "LD_PRELOAD": str(library),
        "RECORDED_FOLDER": str(folder),
        "RECORDED_TAPE": str(tape),
    }


def read_tape(tape: Path) -> list[Op]:
    ops: list[Op] = []
    raw, at = tape.read_bytes(), 0
    while at < len(raw):
        end = raw.index(b"\n", at)
        op, name, offset, length = raw[at:end].decode().split(" ")
        size = int(length) if op == "w" else 0
        ops.append(Op(op, name, int(offset), raw[end + 1 : end + 1 + size]))
        at = end + 1 + size
    return ops


def after_failure(ops: Sequence[Op], chance: random.Random) -> dict[str, bytes]:
    """Names and bytes of the files that are there afterwards."""
    names: dict[str, _File] = {}  # as the process sees them
    sure: dict[str, _File] = {}  # as the folder was last flushed
    changed: dict[str, list[_File | None]] = {}  # since then, in order
    for one in ops:
        if one.op == "c":
            names[one.name] = _File()
            changed.setdefault(one.name, []).append(names[one.name])
        elif one.op == "u":
            names.pop(one.name, None)
            changed.setdefault(one.name, []).append(None)
        elif one.op == "s" and one.name == ".":
            sure, changed = dict(names), {}
        elif one.op == "s":
            flushed = names.get(one.name)
            if flushed is not None:
                for write in flushed.maybe:
                    _apply(flushed.sure, write)
                flushed.maybe.clear()
        elif one.name in names:
            names[one.name].maybe.append(one)
    for name, states in changed.items():
        kept = chance.randrange(len(states) + 1)
        if kept:
            state = states[kept - 1]
            if state is None:
                sure.pop(name, None)
            else:
                sure[name] = state
    return {name: _what_is_left(file, chance) for name, file in sure.items()}


def _what_is_left(file: _File, chance: random.Random) -> bytes:
    left = bytearray(file.sure)
    share = chance.choice((0.0, 0.5, 0.5, 1.0))
    kept = [one for one in file.maybe if chance.random() < share]
    for place, one in enumerate(kept):
        if place == len(kept) - 1 and one.op == "w" and chance.random() < 0.3:
            cut = chance.randrange(0, len(one.data) + 1, SECTOR)
            one = Op("w", one.name, one.offset, one.data[:cut])
        _apply(left, one)
    return bytes(left)


def _apply(content: bytearray, one: Op) -> None:
    if one.op == "t":
        del content[one.offset :]
        content.extend(bytes(one.offset - len(content)))
    else:
        content.extend(bytes(max(0, one.offset - len(content))))
        content[one.offset : one.offset + len(one.data)] = one.data
