"""A folder as a source of a collection: looked at again, it brings what is new, changed or gone, told by hash."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hanok.data.readers.files import expand
from hanok.documents.library import Library
from hanok.documents.records import File
from hanok.errors import InputError
from hanok.reporting import log, progress

MOST_FILES = 20_000


@dataclass(frozen=True, slots=True)
class Scan:
    """Paths in the folder. `unreadable`: those left out, and why; what was there before under such a path is gone too."""

    added: list[str]
    gone: list[str]
    unchanged: int
    unreadable: list[tuple[str, str]]


def scan(library: Library, tenant: str, collection_id: str, folder: Path) -> Scan:
    """Make the collection's share of this folder what the folder holds now; hidden files are left out.

    Raises:
        InputError: no folder, too many files, or (with nothing changed) none of them can be read.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder", remedy="check the path")
    root = folder.resolve()
    try:
        paths = expand(str(root))
    except InputError:  # nothing left in it: then everything is gone
        paths = []
    if len(paths) > MOST_FILES:
        raise InputError(
            f"{folder} holds {len(paths):,} files, and {MOST_FILES:,} may",
            remedy="point at a folder further in",
        )
    files: dict[str, File] = {}
    unreadable: list[tuple[str, str]] = []
    with progress("documents", len(paths), "files") as bar:
        for path, place in paths:
            try:
                assert place is not None  # only standard input has no place
                if place.stat().st_size > library.files.most_bytes:
                    raise InputError(
                        f"{path} is larger than {library.files.most_bytes:,} bytes", remedy="split it"
                    )
                files[path] = library.files.add(tenant, place.name, place.read_bytes())
            except (InputError, OSError) as error:
                unreadable.append((path, str(error)))
                log.warning("documents: %s", error)
            bar.advance(1)
    if unreadable and not files:
        raise InputError(
            f"none of the {len(unreadable)} files in {folder} can be read: {unreadable[0][1]}",
            remedy="see above",
        )
    added, gone = library.collections.sync(tenant, collection_id, str(root), files)
    return Scan(added, gone, len(files) - len(added), unreadable)
