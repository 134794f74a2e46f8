"""`hanok documents add | list | search | remove`: a tenant's collections, in the database of a server or any other."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from hanok.errors import InputError, NotFoundError
from hanok.reporting import table

if TYPE_CHECKING:
    from hanok.documents.library import Library

Word = Annotated[str, tyro.conf.Positional]
Words = Annotated[tuple[str, ...], tyro.conf.Positional]
Paths = Annotated[tuple[Path, ...], tyro.conf.Positional]


def add(collection: Word, paths: Paths, store: str | None = None, tenant: str = "default") -> dict[str, Any]:
    """Add files and folders to a collection, which is made if there is none of that name.

    A folder stays its source: add it again and what is new, changed or gone there is so here.

    Args:
        collection: its name or id.
        paths: files and folders.
        store: the database, a file or a URL; default: HANOK_STORE, else that of runs/quickstart.
        tenant: whose documents they are.
    """
    from hanok.documents.folders import scan

    if not paths:
        raise InputError("no path given", remedy="name files or folders")
    for path in paths:
        if not path.exists():
            raise InputError(f"{path} does not exist", remedy="check the path")
    with _library(store) as library:
        try:
            kept = library.collections.find(tenant, collection)
        except NotFoundError:
            kept = library.collections.create(tenant, collection)
        added, gone, unchanged, unreadable = 0, 0, 0, list[tuple[str, str]]()
        for path in paths:
            if path.is_dir():
                found = scan(library, tenant, kept.id, path)
                added, gone, unchanged = (
                    added + len(found.added), gone + len(found.gone), unchanged + found.unchanged
                )  # fmt: skip
                unreadable += found.unreadable
            else:
                file = library.files.add(tenant, path.name, _read(path))
                library.collections.attach(tenant, kept.id, file.id)
                added += 1
        kept = library.collections.get(tenant, kept.id)
    if unreadable:
        table("left out", ("file", "why"), unreadable)
    table(
        f"collection {kept.name}", ("files", "added or changed", "gone", "unchanged", "left out"),
        [(kept.files, added, gone, unchanged, len(unreadable))],
    )  # fmt: skip
    named = f" --store {store}" if store else ""
    print(f'next: hanok documents search "{kept.name}" "..."{named}', file=sys.stderr)
    return {
        "collection": kept.id, "files": kept.files, "added": added, "gone": gone, "unchanged": unchanged,
        "unreadable": unreadable,
    }  # fmt: skip


def list_documents(
    collection: Word = "", *, store: str | None = None, tenant: str = "default"
) -> dict[str, Any]:
    """Collections, or the files in one.

    Args:
        collection: its name or id; without one all collections are listed.
        store: the database. tenant: whose documents.
    """
    with _library(store) as library:
        if not collection:
            rows = [
                {"id": one.id, "name": one.name, "files": one.files, "bytes": one.bytes}
                for one in library.collections.list(tenant)
            ]
            _show(f"collections of {tenant}", ("id", "name", "files", "bytes"), rows)
            return {"collections": rows}
        kept = library.collections.find(tenant, collection)
        rows = [
            {"id": m.file.id, "name": m.file.name, "bytes": m.file.bytes, "passages": m.file.passages}
            for m in library.collections.members(tenant, kept.id)
        ]
        _show(f"files of {kept.name}", ("id", "name", "bytes", "passages"), rows)
        return {"collection": kept.id, "files": rows}


def search(
    collection: Word, query: Word, store: str | None = None, tenant: str = "default", limit: int = 5
) -> dict[str, Any]:
    """The passages that a question finds, and whether they are likely to hold its answer.

    Args:
        collection: its name or id.
        query: a question or words.
        store: the database. tenant: whose documents.
        limit: how many passages.
    """
    with _library(store) as library:
        kept = library.collections.find(tenant, collection)
        results = library.search(tenant, [kept.id], query, limit=limit)
    rows = [
        {
            "score": round(hit.score, 3), "file": hit.passage.name, "file_id": hit.passage.file_id,
            "passage": hit.passage.number, "heading": hit.passage.heading, "text": hit.passage.text,
        }
        for hit in results.hits
    ]  # fmt: skip
    _show(f"support {results.support:.2f}", ("score", "file", "passage", "text"), rows)
    return {"support": round(results.support, 4), "hits": rows}


def remove(
    collection: Word, files: Words = (), *, store: str | None = None, tenant: str = "default"
) -> dict[str, Any]:
    """Delete files of a collection, or, without any named, the collection (its files stay the tenant's).

    Args:
        collection: its name or id.
        files: names or ids; a name deletes every file of that name in the collection.
        store: the database. tenant: whose documents.
    """
    with _library(store) as library:
        kept = library.collections.find(tenant, collection)
        if not files:
            library.collections.delete(tenant, kept.id)
            return {"removed": [kept.id]}
        members = library.collections.members(tenant, kept.id)
        doomed: list[str] = []
        for wanted in files:
            found = [m.file.id for m in members if wanted in (m.file.id, m.file.name)]
            if not found:
                raise NotFoundError(
                    f'no file "{wanted}" in {kept.name}', remedy=f'see hanok documents list "{kept.name}"'
                )
            doomed += found
        for file_id in dict.fromkeys(doomed):
            library.files.delete(tenant, file_id)
    return {"removed": list(dict.fromkeys(doomed))}


@contextmanager
def _library(store: str | None) -> Iterator[Library]:
    from hanok.cli.places import open_store
    from hanok.documents.library import Library

    with open_store(store, None) as kept:
        yield Library(kept)


def _read(path: Path) -> bytes:
    from hanok.documents.reading import MOST_BYTES

    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})", remedy="check the path") from error


def _show(title: str, columns: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    table(title, columns, [[row[column] for column in columns] for row in rows])
