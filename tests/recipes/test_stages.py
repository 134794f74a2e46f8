"""A run: done stages are kept, changed ones and their readers are made anew, damage is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from hanok.artefacts import Artefact, create_artefact, open_artefact
from hanok.errors import ArtefactError
from hanok.recipes.stages import Stage, run_stages


class House:
    """Three stages a -> b, c on their own; counts how often each is made."""

    def __init__(self, run: Path) -> None:
        self.run, self.made = run, []

    def make(self, name: str, text: str, fail: bool = False):
        def write(out: Path) -> Artefact:
            self.made.append(name)
            with create_artefact(out, kind="corpus", step={"text": text}) as draft:
                (draft.path / "file").write_text(text)
                if fail:
                    raise RuntimeError("killed")
            return open_artefact(out)

        return write

    def go(self, a: str = "1", b: str = "1", c: str = "1", fail_b: bool = False) -> list[str]:
        self.made = []
        stages = [
            Stage(name="a", config={"x": a}, make=self.make("a", a)),
            Stage(name="b", config={"x": b}, reads=("a",), make=self.make("b", b, fail_b)),
            Stage(name="c", config={"x": c}, make=self.make("c", c)),
        ]
        run_stages(stages, run=self.run, recipe={"name": "test"})
        return self.made


def test_each_stage_is_made_once_and_changes_reach_only_their_readers(tmp_path: Path) -> None:
    house = House(tmp_path / "run")
    assert house.go() == ["a", "b", "c"]
    assert house.go() == []
    assert house.go(b="2") == ["b"]
    assert house.go(a="2", b="2") == ["a", "b"]


def test_a_failed_stage_is_tried_again_and_earlier_ones_are_kept(tmp_path: Path) -> None:
    house = House(tmp_path / "run")
    with pytest.raises(RuntimeError):
        house.go(fail_b=True)
    assert house.go() == ["b", "c"]


def test_a_flipped_bit_is_refused_not_silently_remade(tmp_path: Path) -> None:
    house = House(tmp_path / "run")
    house.go()
    (tmp_path / "run" / "a" / "file").write_text("0")
    with pytest.raises(ArtefactError, match="does not match the hash"):
        house.go()


def test_a_deleted_stage_is_made_anew_and_its_readers_are_kept_when_it_comes_out_equal(
    tmp_path: Path,
) -> None:
    import shutil

    house = House(tmp_path / "run")
    house.go()
    shutil.rmtree(tmp_path / "run" / "a")
    assert house.go() == ["a"]
