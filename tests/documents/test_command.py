"""`hanok documents`: the same library from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hanok.cli import _run


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*words: str, code: int = 0) -> dict[str, object]:
        assert _run(["documents", *words, "--store", str(tmp_path / "s.sqlite"), "--json"]) == code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return json.loads(out) if code == 0 else {"message": err}

    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "leave.txt").write_text("휴가는 매년 15일이다.", encoding="utf-8")
    (tmp_path / "tea.txt").write_text("The tea house opens at nine.", encoding="utf-8")
    assert told("add", "house", str(folder), str(tmp_path / "tea.txt"))["added"] == 2
    (folder / "leave.txt").unlink()
    assert told("add", "house", str(folder))["gone"] == 1
    hits = told("search", "house", "When does the tea house open?")["hits"]
    assert [hit["file"] for hit in hits] == ["tea.txt"]  # type: ignore[attr-defined]
    assert [one["name"] for one in told("list")["collections"]] == ["house"]  # type: ignore[attr-defined]
    assert 'no file "no.txt"' in told("remove", "house", "no.txt", code=2)["message"]  # type: ignore[operator]
    told("remove", "house", "tea.txt")
    assert told("list", "house")["files"] == []
    told("remove", "house")
    assert 'no collection "house"' in told("search", "house", "tea", code=2)["message"]  # type: ignore[operator]
    assert "does not exist" in told("add", "house", str(tmp_path / "none"), code=2)["message"]  # type: ignore[operator]
