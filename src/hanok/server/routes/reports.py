"""The reports of the run that the model belongs to, and of benchmarks beside it: listed, and served to the console's frame.

Only files called report.html that lie in these folders are served. A report runs nothing and loads nothing, whatever is in it.
"""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse

from hanok.server.errors import ApiError
from hanok.server.identity.roles import needs
from hanok.server.services import Services

NAME = "report.html"
_DEEPEST, _MOST = 6, 500  # folders below a root; reports
_HEADERS = {
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'",
}


def router(services: Services) -> APIRouter:
    routes = APIRouter()
    run = services.run
    if run is None:
        return routes
    roots = {"run": run, "bench": run.parent / "bench"}

    @routes.get("/console/reports")
    @needs("reports:read")
    async def reports() -> dict[str, Any]:
        return {"object": "list", "run": run.name, "data": await asyncio.to_thread(_list, roots)}

    @routes.get("/console/reports/{root}/{path:path}", response_model=None)
    @needs("reports:read")
    async def report(root: str, path: str) -> FileResponse:
        file = await asyncio.to_thread(_find, roots, root, path)
        return FileResponse(file, media_type="text/html; charset=utf-8", headers=_HEADERS)

    return routes


def _list(roots: Mapping[str, Path]) -> list[dict[str, Any]]:
    """The run's own report first, then by folder."""
    found = [
        {
            "path": f"{root}/{file.relative_to(folder).as_posix()}",
            "of": root,
            "step": file.parent.relative_to(folder).as_posix(),
            "title": _title(file),
            "modified": file.stat().st_mtime,
        }
        for root, folder in roots.items()
        for file in _walk(folder, _DEEPEST)
    ]
    return sorted(found[:_MOST], key=lambda one: (one["of"] != "run", one["step"] != ".", one["step"]))


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    if not folder.is_dir():
        return
    for child in sorted(folder.iterdir()):
        if child.is_symlink():
            continue
        if child.name == NAME and child.is_file():
            yield child
        elif depth and child.is_dir():
            yield from _walk(child, depth - 1)


def _title(file: Path) -> str:
    with file.open(encoding="utf-8", errors="replace") as text:
        found = re.search(r"<title>([^<]*)</title>", text.read(4096))
    return html.unescape(found[1]).strip() if found else file.parent.name


def _find(roots: Mapping[str, Path], root: str, path: str) -> Path:
    """Raises ApiError 404 for whatever is no report of these folders."""
    folder = roots.get(root)
    if folder is not None and "\0" not in path and Path(path).name == NAME:
        file = (folder / path).resolve()
        if (
            file.name == NAME and file.is_relative_to(folder.resolve()) and file.is_file()
        ):  # whatever links say
            return file
    raise ApiError(404, "no such report", code="not_found")
