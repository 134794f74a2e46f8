"""Artefact directories: a manifest of hashes, lineage to the parents, and atomic appearance.

`artefact.json` = {format, kind, hash, files: {name: {sha256, bytes}}, parents: {role: hash}, step, code, created, metrics}.
`hash` covers kind, files, parents and step, so that it names the content and where it came from, not the hour.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hanok
from hanok.artefacts.files import fsync_dir, fsync_file, sha256_file, write_json
from hanok.errors import ArtefactError

FORMAT = 1
MANIFEST = "artefact.json"
OUTSIDE = ("report.html", "report.json", "metrics.jsonl", "plots", "model.sig")


@dataclass(frozen=True, kw_only=True, slots=True)
class Artefact:
    """A directory whose files were found to match its manifest."""

    path: Path
    kind: str
    hash: str
    files: Mapping[str, Mapping[str, Any]]
    parents: Mapping[str, str]
    step: Mapping[str, Any]
    metrics: Mapping[str, Any]


@dataclass(slots=True)
class Draft:
    """An artefact being written: files go into `path`, a temporary sibling of the final directory."""

    path: Path
    metrics: dict[str, Any] = field(default_factory=dict)
    outside_names: set[str] = field(default_factory=lambda: set(OUTSIDE))

    def outside(self, *names: str) -> None:
        """Declare files or folders (relative to `path`) that are logs: kept, but not hashed."""
        self.outside_names.update(names)


@contextmanager
def create_artefact(
    path: Path,
    *,
    kind: str,
    parents: Mapping[str, Artefact | Path] | None = None,
    step: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Iterator[Draft]:
    """Write a directory that appears at `path` whole, or not at all.

    Args:
        parents: role name to the artefact (or its directory, which is then opened and verified).
        step: the resolved configuration of the step that makes it; JSON values only.
        overwrite: replace an artefact that is already there, only once the new one is complete.

    Raises:
        ArtefactError: `path` exists and `overwrite` is false, or a parent does not match its manifest.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise ArtefactError(f"{path} already exists", remedy="choose another output directory or remove it")
    parent_hashes = {
        role: (value if isinstance(value, Artefact) else open_artefact(value)).hash
        for role, value in (parents or {}).items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_orphans(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    temporary.mkdir()
    draft = Draft(temporary)
    try:
        yield draft
        _seal(draft, kind=kind, parents=parent_hashes, step=step or {})
        _appear(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def open_artefact(path: Path, *, kind: str | Sequence[str] | None = None, verify: bool = True) -> Artefact:
    """Open a directory and check every file against its manifest.

    A directory without a manifest (a public model, somebody's folder) is hashed now and becomes a root of kind
    "external". `verify=False` trusts the recorded hashes and checks presence and sizes only.

    Raises:
        ArtefactError: absent, damaged, of another kind, or written by a newer version.
    """
    path = Path(path)
    if not path.is_dir():
        raise ArtefactError(f"no directory at {path}", remedy="check the path, or run the step that makes it")
    if not (path / MANIFEST).is_file():
        files = _records(path, set(OUTSIDE))
        return Artefact(
            path=path,
            kind="external",
            hash=_identity("external", files, {}, {}),
            files=files,
            parents={},
            step={},
            metrics={},
        )
    manifest = _manifest(path)
    wanted = (kind,) if isinstance(kind, str) else kind
    if wanted and manifest["kind"] not in wanted:
        raise ArtefactError(
            f'{path} holds an artefact of kind "{manifest["kind"]}", expected {" or ".join(wanted)}',
            remedy="give the directory of that step",
        )
    for name, record in manifest["files"].items():
        _check_file(path, name, record, content=verify)
    expected = _identity(manifest["kind"], manifest["files"], manifest["parents"], manifest["step"])
    if manifest["hash"] != expected:
        raise ArtefactError(f"{path / MANIFEST}: its own hash does not match", remedy=_REMAKE)
    return Artefact(
        path=path, kind=manifest["kind"], hash=manifest["hash"], files=manifest["files"],
        parents=manifest["parents"], step=manifest["step"], metrics=manifest["metrics"],
    )  # fmt: skip


def remove_orphans(path: Path) -> None:
    """Delete what a killed process left half-written beside `path`, and finish a swap that it left half-done."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        if not _alive(leftover):
            shutil.rmtree(leftover, ignore_errors=True)
    for old in path.parent.glob(f".{path.name}.*.old"):
        if _alive(old):
            continue
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(old, path)


_REMAKE = "the directory was changed or damaged after it was written: delete it and run the step again"


def _alive(leftover: Path) -> bool:
    """Whether the process that named this temporary directory still runs (its pid is in the name)."""
    pid = leftover.name.rsplit(".", 2)[-2].split("-")[0]
    return pid.isdigit() and int(pid) != os.getpid() and Path(f"/proc/{pid}").exists()


def _seal(draft: Draft, *, kind: str, parents: Mapping[str, str], step: Mapping[str, Any]) -> None:
    step = json.loads(json.dumps(step, default=str))
    files = _records(draft.path, draft.outside_names)
    manifest = {
        "format": FORMAT,
        "kind": kind,
        "hash": _identity(kind, files, parents, step),
        "files": files,
        "parents": dict(parents),
        "step": step,
        "code": hanok.__version__,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "metrics": draft.metrics,
    }
    for directory, _, names in os.walk(draft.path):
        for name in names:
            fsync_file(Path(directory) / name)
        fsync_dir(Path(directory))
    write_json(draft.path / MANIFEST, manifest)


def _appear(temporary: Path, path: Path) -> None:
    """Rename into place; an older directory steps aside first (rename cannot replace a non-empty one)."""
    old: Path | None = None
    if path.exists():
        old = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.old")
        os.replace(path, old)
    try:
        os.replace(temporary, path)
    except BaseException:
        if old is not None:
            os.replace(old, path)
        raise
    fsync_dir(path.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        version = int(manifest["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArtefactError(
            f"{path / MANIFEST} is not a readable manifest ({error})", remedy=_REMAKE
        ) from error
    if version > FORMAT:
        raise ArtefactError(
            f"{path} was written in format {version}, this version reads up to {FORMAT}",
            remedy="upgrade hanok",
        )
    missing = {"kind", "hash", "files", "parents", "step", "metrics"} - set(manifest)
    if missing:
        raise ArtefactError(f"{path / MANIFEST} lacks {', '.join(sorted(missing))}", remedy=_REMAKE)
    return manifest


def _records(path: Path, outside: set[str]) -> dict[str, dict[str, Any]]:
    records: dict[str, dict[str, Any]] = {}
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        inside = name.split("/", 1)[0] not in outside and name not in outside
        if file.is_file() and inside and name != MANIFEST:
            records[name] = {"sha256": sha256_file(file), "bytes": file.stat().st_size}
    return records


def _identity(kind: str, files: Mapping, parents: Mapping, step: Mapping) -> str:
    content = {
        "kind": kind,
        "files": {n: r["sha256"] for n, r in files.items()},
        "parents": parents,
        "step": step,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _check_file(path: Path, name: str, record: Mapping[str, Any], *, content: bool) -> None:
    file = path / name
    if not file.is_file():
        raise ArtefactError(f"{path}: {name} is missing", remedy=_REMAKE)
    size = file.stat().st_size
    if size != record["bytes"]:
        raise ArtefactError(f"{file}: {size} bytes where the manifest says {record['bytes']}", remedy=_REMAKE)
    if content and sha256_file(file) != record["sha256"]:
        raise ArtefactError(f"{file}: its content does not match the hash in {MANIFEST}", remedy=_REMAKE)
