"""Packed weights kept between starts: a cache in the user's folder, keyed by the model's files and the code that packs, never an
artefact.

Rounding a matrix to four bits and laying it out takes longer than reading it; so what the kernels hold is written down once, for
models where that is worth it. The folder is `HANOK_CACHE`, else `XDG_CACHE_HOME/hanok` or `~/.cache/hanok`; the images that were
used longest ago go first when together they pass a limit. `HANOK_CACHE=off` keeps nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from hanok.engine import arrange
from hanok.errors import CheckpointError
from hanok.kernels import formats, packed
from hanok.kernels.native import native
from hanok.kernels.packed import KINDS, Kind, PackedMatrix, Room, restore
from hanok.models import coded
from hanok.models.checkpoint.weights import read_file, write_file
from hanok.reporting import log

LEAST_BYTES = 64 << 20  # smaller models are packed in a moment
MOST_BYTES = 32 << 30  # of all images
_SETTING = "HANOK_CACHE"


class Images:
    """The packed matrices of one model, in the order in which they are asked for. `take` or `keep` each; then `finish`."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stored = self._read()
        self._new: list[PackedMatrix] = []
        self._count = 0

    def take(self, room: Room) -> PackedMatrix | None:
        """The next matrix as it was kept, in `room`; None: make it, and `keep` it."""
        number, self._count = self._count, self._count + 1
        if self._stored is None:
            return None
        kind, rows, cols = self._stored[f"{number}.shape"].tolist()
        scales, zeros, bias = (self._stored.get(f"{number}.{part}") for part in ("scales", "zeros", "bias"))
        return restore(
            KINDS[kind], rows, cols, self._stored[f"{number}.weights"], scales, zeros, bias, room=room
        )

    def keep(self, matrix: PackedMatrix) -> None:
        self._new.append(matrix)

    def finish(self) -> None:
        """Write what is new, if it is worth it. That it cannot be written is told, and costs time only."""
        self._stored = None
        new, self._new = self._new, []
        if sum(matrix.nbytes for matrix in new) < LEAST_BYTES:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            _make_room(self._file.parent, sum(matrix.nbytes for matrix in new))
            with tempfile.TemporaryDirectory(dir=self._file.parent) as folder:
                write_file(_tensors(new), Path(folder) / "image")
                (Path(folder) / "image").replace(self._file)
            log.info("packed weights are kept in %s for the next start", self._file)
        except (OSError, SafetensorError) as error:
            log.warning("packed weights are not kept in %s: %s", self._file.parent, error)

    def _read(self) -> dict[str, Tensor] | None:
        if not self._file.is_file():
            return None
        try:
            found = read_file(self._file)
            os.utime(self._file)
        except (CheckpointError, OSError) as error:
            log.warning("%s is not readable and made anew: %s", self._file, error)
            return None
        return found


def images_of(
    directory: Path, kind: Kind, *, finer: Kind | None = None, ends: Kind | None = None
) -> Images | None:
    """The images of a model directory's weights, in the kinds that `NativeDecoder` is given; None where none are kept: bfloat16
    needs no rounding."""
    folder = _folder()
    if kind == "bf16" or folder is None:
        return None
    files = [*directory.glob("model*.safetensors"), *directory.glob("config.json")]
    code = [Path(module.__file__ or "") for module in (formats, packed, coded, arrange, native())]
    code += [Path(__file__), Path(__file__).with_name("native.py")]
    facts = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in (*sorted(files), *code)]
    key = json.dumps([kind, finer or kind, ends or finer or kind, facts])
    name = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
    return Images(folder / "images" / f"{name}.safetensors")


@contextlib.contextmanager
def none_kept() -> Iterator[None]:
    """Engines that are opened meanwhile, here or in processes that are started, neither read images nor keep any."""
    before = os.environ.get(_SETTING)
    os.environ[_SETTING] = "off"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SETTING]
        else:
            os.environ[_SETTING] = before


def _folder() -> Path | None:
    chosen = os.environ.get(_SETTING, "")
    if chosen == "off":
        return None
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hanok"


def _tensors(matrices: list[PackedMatrix]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for number, matrix in enumerate(matrices):
        parts = {
            "weights": matrix.weights, "scales": matrix.scales, "zeros": matrix.zeros, "bias": matrix.bias,
        }  # fmt: skip
        tensors |= {f"{number}.{name}": part for name, part in parts.items() if part is not None}
        tensors[f"{number}.shape"] = torch.tensor([KINDS.index(matrix.kind), matrix.rows, matrix.cols])
    return tensors


def _make_room(folder: Path, needed: int) -> None:
    images = sorted(folder.glob("*.safetensors"), key=lambda file: file.stat().st_mtime)
    total = sum(file.stat().st_size for file in images)
    for file in images:
        if total + needed <= MOST_BYTES:
            return
        total -= file.stat().st_size
        with contextlib.suppress(FileNotFoundError):  # another process was quicker
            file.unlink()
