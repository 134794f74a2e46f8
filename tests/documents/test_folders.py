"""A folder looked at twice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from hanok.documents.folders import scan
from hanok.documents.library import Library
from hanok.errors import InputError


@pytest.fixture
def folder(tmp_path: Path, texts: Mapping[str, str]) -> Path:
    for name, text in texts.items():
        place = tmp_path / "folder" / "sub" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    return tmp_path / "folder"


def names(library: Library, shelf: str) -> list[str]:
    return sorted(member.file.name for member in library.collections.members("ours", shelf))


def test_new_changed_and_gone(library: Library, folder: Path) -> None:
    shelf = library.collections.create("ours", "folder").id
    first = scan(library, "ours", shelf, folder)
    assert (len(first.added), first.gone, first.unchanged) == (3, [], 0)
    again = scan(library, "ours", shelf, folder)
    assert (again.added, again.gone, again.unchanged) == ([], [], 3)

    (folder / "sub" / "kitchen.txt").write_text("된장찌개는 된장으로 끓인다.", encoding="utf-8")
    (folder / "sub" / "garden.txt").rename(folder / "yard.txt")
    (folder / "sub" / "handbook.md").unlink()
    third = scan(library, "ours", shelf, folder)
    assert (third.added, third.gone) == (
        ["sub/kitchen.txt", "yard.txt"],
        ["sub/garden.txt", "sub/handbook.md"],
    )
    assert names(library, shelf) == ["kitchen.txt", "yard.txt"]
    assert len(library.files.list("ours")) == 2
    assert "된장" in library.search("ours", [shelf], "된장찌개").hits[0].passage.text


def test_an_emptied_folder_empties_its_share(library: Library, folder: Path) -> None:
    shelf = library.collections.create("ours", "folder").id
    scan(library, "ours", shelf, folder)
    mine = library.files.add("ours", "mine.txt", b"kept by hand")
    library.collections.attach("ours", shelf, mine.id)
    for file in folder.rglob("*.*"):
        file.unlink()
    assert len(scan(library, "ours", shelf, folder).gone) == 3
    assert names(library, shelf) == ["mine.txt"]


def test_what_somebody_else_holds_stays(library: Library, folder: Path) -> None:
    shelf, other = (library.collections.create("ours", name).id for name in ("folder", "other"))
    scan(library, "ours", shelf, folder)
    kitchen = next(m.file for m in library.collections.members("ours", shelf) if m.file.name == "kitchen.txt")
    garden = next(m.file for m in library.collections.members("ours", shelf) if m.file.name == "garden.txt")
    library.collections.attach("ours", other, kitchen.id)
    library.collections.attach("ours", shelf, garden.id)  # by hand too
    for name in ("kitchen.txt", "garden.txt"):
        (folder / "sub" / name).unlink()
    scan(library, "ours", shelf, folder)
    assert names(library, shelf) == ["garden.txt", "handbook.md"]
    assert names(library, other) == ["kitchen.txt"]


def test_equal_files_under_two_names(library: Library, folder: Path) -> None:
    shelf = library.collections.create("ours", "folder").id
    (folder / "copy.txt").write_bytes((folder / "sub" / "kitchen.txt").read_bytes())
    assert len(scan(library, "ours", shelf, folder).added) == 4
    (folder / "sub" / "kitchen.txt").unlink()
    assert scan(library, "ours", shelf, folder).gone == ["sub/kitchen.txt"]
    assert len(names(library, shelf)) == 3


def test_unreadable_files_are_left_out(library: Library, folder: Path) -> None:
    shelf = library.collections.create("ours", "folder").id
    (folder / "picture.png").write_bytes(b"\x89PNG")
    found = scan(library, "ours", shelf, folder)
    assert [path for path, _ in found.unreadable] == ["picture.png"]
    assert len(found.added) == 3


def test_a_folder_of_nothing_readable_changes_nothing(library: Library, tmp_path: Path) -> None:
    shelf = library.collections.create("ours", "folder").id
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match=r"none of the 1 files .* no text format"):
        scan(library, "ours", shelf, tmp_path / "pictures")
    with pytest.raises(InputError, match="is no folder"):
        scan(library, "ours", shelf, tmp_path / "absent")
