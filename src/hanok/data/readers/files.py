"""Where bytes come from: files, folders, globs, standard input; and, opened on the fly, compressed files and archives."""

from __future__ import annotations

import bz2
import glob
import gzip
import io
import lzma
import os
import re
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

import zstandard

from hanok.data.readers.records import UnreadableError
from hanok.errors import InputError

_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_TARS = (".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
# what a broken file of any of these kinds raises
BROKEN = (
    OSError,
    EOFError,
    tarfile.TarError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
    zstandard.ZstdError,
)


@dataclass(slots=True)
class Source:
    """An open byte stream and the name of what it holds, compression taken off ("notes.txt" for notes.txt.gz)."""

    name: str
    stream: io.BufferedReader

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix.lower()


def filled_in(path: str) -> Path:
    """With `~` and `${NAME:-default}` replaced."""
    return Path(_VARIABLE.sub(lambda match: os.environ.get(match[1]) or match[2] or "", path)).expanduser()


def expand(path: str) -> list[tuple[str, Path | None]]:
    """(name, file) of everything that a path, a folder or a glob names, sorted; "-" is (stdin, None).

    `~` is the home folder, `${NAME:-default}` an environment variable or what stands behind ":-" where it is not set.

    Raises:
        InputError: nothing is there.
    """
    if path == "-":
        return [("stdin", None)]
    place = filled_in(path)
    path = str(place)
    if place.is_dir():
        files = [file for file in sorted(place.rglob("*")) if file.is_file() and not _hidden(file, place)]
        if not files:
            raise InputError(
                f"folder {path} holds no files", remedy="put documents into it, or name another one"
            )
        return [(str(file.relative_to(place)), file) for file in files]
    if place.exists():
        return [(place.name, place)]
    found = sorted(Path(name) for name in glob.glob(str(place), recursive=True) if Path(name).is_file())
    if not found:
        what = "matches no file" if glob.has_magic(path) else "does not exist"
        raise InputError(f"{path} {what}", remedy="check the path; globs are written like notes/**/*.md")
    return [(str(file), file) for file in found]


def open_sources(name: str, file: Path | None) -> Generator[Source, None, None]:
    """The streams that a file holds: itself, or the members of an archive, which is read without unpacking to disk."""
    if file is None:
        yield Source(name, _buffered(sys.stdin.buffer))
        return
    with file.open("rb") as stream:
        yield from _open(name, stream, nested=False)


class _Raw(io.RawIOBase):
    """A stream that somebody else closes; members of a tar stream lack half of what files can do."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seekable(self) -> bool:
        return (
            isinstance(self._stream, io.BufferedReader)
            and isinstance(self._stream.raw, io.FileIO)
            and self._stream.seekable()
        )

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


def _buffered(stream: IO[bytes]) -> io.BufferedReader:
    return io.BufferedReader(_Raw(stream), 1 << 16)


def _open(name: str, stream: IO[bytes], *, nested: bool) -> Iterator[Source]:
    lower = name.lower()
    if lower.endswith(_TARS):
        if nested:
            raise UnreadableError(
                f"{name}: an archive inside an archive", remedy="unpack the outer one first"
            )
        yield from _tar_members(name, stream)
    elif lower.endswith(".zip"):
        if nested:
            raise UnreadableError(
                f"{name}: an archive inside an archive", remedy="unpack the outer one first"
            )
        yield from _zip_members(name, stream)
    elif lower.endswith(_COMPRESSED):
        yield Source(name[: name.rindex(".")], _buffered(decompress(lower, stream)))
    else:
        yield Source(name, _buffered(stream))


def decompress(name: str, stream: IO[bytes]) -> IO[bytes]:
    """The decompressed stream, by the name's ending."""
    if name.endswith((".gz", ".tgz")):
        return cast(IO[bytes], gzip.GzipFile(fileobj=stream))
    if name.endswith((".bz2", ".tbz2")):
        return bz2.BZ2File(stream)
    if name.endswith((".xz", ".txz")):
        return lzma.LZMAFile(stream)
    if name.endswith(".zst"):
        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(stream))
    return stream


def _tar_members(name: str, stream: IO[bytes]) -> Iterator[Source]:
    with tarfile.open(fileobj=decompress(name.lower(), stream), mode="r|") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None and not _hidden_name(member.name):
                yield from _open(f"{name}/{member.name}", content, nested=True)


def _zip_members(name: str, stream: IO[bytes]) -> Iterator[Source]:
    with zipfile.ZipFile(stream) as archive:
        for member in sorted(archive.infolist(), key=lambda info: info.filename):
            if member.is_dir() or _hidden_name(member.filename):
                continue
            if member.flag_bits & 1:
                raise UnreadableError(
                    f"{name}/{member.filename} is encrypted", remedy="unpack it with its password"
                )
            with archive.open(member) as content:
                yield from _open(f"{name}/{member.filename}", content, nested=True)


def _hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts)


def _hidden_name(name: str) -> bool:
    return any(part.startswith(".") and part not in (".", "..") for part in PurePosixPath(name).parts)
