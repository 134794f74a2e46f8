"""Recipes: typed, with errors that name the place and the nearest key."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from hanok.errors import ConfigError
from hanok.recipes.load import apply_settings, build, find_recipe, read_toml, to_plain


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    learning_rate: float = 0.1
    mode: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ConfigError(f"learning_rate = {self.learning_rate}", remedy="it must be above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    name: str
    steps: int = 3
    flag: bool = False
    limit: int | None = None
    folder: Path = Path(".")
    inner: Inner = field(default_factory=Inner)
    many: tuple[Inner, ...] = ()
    weights: dict[str, float] = field(default_factory=dict)


def outer(**values) -> Outer:
    return build(Outer, {"name": "x", **values}, where="", source="test.toml")


def test_types_are_converted() -> None:
    made = outer(
        inner={"learning_rate": 1, "mode": "b"},
        many=[{}, {"mode": "b"}],
        weights={"t": 2},
        folder="a/b",
        limit=5,
    )
    assert made.inner == Inner(learning_rate=1.0, mode="b")
    assert isinstance(made.inner.learning_rate, float)
    assert made.many[1].mode == "b"
    assert made.weights == {"t": 2.0}
    assert made.folder == Path("a/b")
    assert build(Outer, to_plain(made) | {"limit": 7}, where="", source="again").limit == 7


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"inner": {"learning_rat": 1.0}}, r'test.toml, \[inner\]: unknown key "learning_rat"; did you mean "learning_rate"\?'),
        ({"stepz": 3}, 'unknown key "stepz"; did you mean "steps"'),
        ({"steps": "three"}, "steps = 'three': expected int, found str"),
        ({"steps": True}, "expected int, found bool"),
        ({"steps": 1.5}, "expected int, found float"),
        ({"inner": {"mode": "c"}}, "expected one of 'a', 'b'"),
        ({"inner": {"learning_rate": -1.0}}, r"\[inner\]: learning_rate = -1.0; it must be above 0"),
        ({"many": [{"mode": "z"}]}, r"many.0.mode = 'z'"),
        ({"inner": 3}, "expected Inner, found int"),
    ],
)  # fmt: skip
def test_errors_name_the_place(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        outer(**values)


def test_missing_key() -> None:
    with pytest.raises(ConfigError, match='"name" is missing'):
        build(Outer, {}, where="", source="test.toml")


def test_settings_override_and_do_not_touch_the_original() -> None:
    values = {"name": "x", "many": [{"mode": "a"}]}
    changed = apply_settings(
        values, ["inner.learning_rate=0.5", "many.0.mode=b", "name=plain words", "limit=4"]
    )
    made = build(Outer, changed, where="", source="t")
    assert (made.inner.learning_rate, made.many[0].mode, made.name, made.limit) == (
        0.5,
        "b",
        "plain words",
        4,
    )
    assert values == {"name": "x", "many": [{"mode": "a"}]}


@pytest.mark.parametrize("setting", ["novalue", "=3", "many.5.mode=b", "name.deep=1"])
def test_bad_settings(setting: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        apply_settings({"name": "x", "many": []}, [setting])


def test_find_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no recipe file"):
        find_recipe(str(tmp_path / "none.toml"))
    with pytest.raises(ConfigError, match='did you mean "quickstart"'):
        find_recipe("quikstart")
    (tmp_path / "broken.toml").write_text("a = ")
    with pytest.raises(ConfigError, match=r"broken.toml: .*at end of document"):
        read_toml(tmp_path / "broken.toml")
