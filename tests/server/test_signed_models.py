"""A server that takes signed models alone: the first, those after it, adapters; refusals are in the audit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import serving
from audited_house import Audited, audited_house

from hanok.artefacts.signing import SIGNATURE, load_private, make_key, sign
from hanok.cli import _run
from hanok.engine.generator import LocalEngine
from hanok.errors import SignatureError
from hanok.server.app import check_first
from hanok.server.auditing.trail import Trail
from hanok.server.hosting import ModelSpec, open_model
from hanok.server.operations.config import ServeSettings, resolve_settings


class Makers(NamedTuple):
    """Models `first` and `second` of one maker, signed by them, and `plain`, which nobody has signed."""

    first: Path
    second: Path
    plain: Path
    key: Path
    id: str


@pytest.fixture
def makers(tmp_path: Path) -> Makers:
    made = make_key(tmp_path / "maker")
    found = [serving.make_model(tmp_path / name, seed=seed) for seed, name in ((3, "a"), (4, "b"), (5, "c"))]
    for model in found[:2]:
        sign(model, load_private(tmp_path / "maker"))
    first, second, plain = found
    return Makers(first, second, plain, tmp_path / "maker.pub", made.id)


@pytest.fixture
def house(makers: Makers, tmp_path: Path) -> Iterator[Audited]:
    settings = ServeSettings(require_signature=(makers.key,))
    engine = LocalEngine(makers.first)
    with audited_house(SimpleNamespace(engine=engine), makers.first, tmp_path, "format = 1", settings) as (
        services,
        http,
    ):
        yield Audited(services, http, services.models.default_name)
        services.models.close()


def admin(house: Audited, what: str, **body: Any) -> Any:
    return house.http.post(f"/admin/{what}", json=body)


def test_only_what_is_signed_takes_a_models_place(house: Audited, makers: Makers) -> None:
    for what in ("replace", "canary"):
        refused = admin(house, f"models/{house.model}/{what}", directory=str(makers.plain))
        assert refused.status_code == 400, refused.text
        assert "is not signed" in refused.text
    (makers.second / "generation_config.json").write_text("{}")
    refused = admin(house, f"models/{house.model}/replace", directory=str(makers.second))
    assert refused.status_code == 400
    assert "generation_config.json" in refused.text
    sign(makers.second, load_private(makers.key.with_suffix("")))
    done = admin(house, f"models/{house.model}/replace", directory=str(makers.second))
    assert done.status_code == 200, done.text
    (entry,) = house.entries("model.replace")
    assert entry["facts"]["signed_by"] == makers.id
    told = [one["facts"]["why"] for one in reversed(house.entries("model.refused"))]
    assert [why.split(":")[0] for why in told] == ["is not signed"] * 2 + [
        f"is not what key {makers.id[:16]} signed"
    ]
    assert not any(str(makers.plain.parent) in why for why in told)


def test_a_canary_that_changed_on_the_disk_is_not_promoted(house: Audited, makers: Makers) -> None:
    path = f"models/{house.model}/canary"
    begun = admin(house, path, directory=str(makers.second), share=0.5)
    assert begun.status_code == 201, begun.text
    assert house.entries("canary.start")[0]["facts"]["signed_by"] == makers.id
    kept = (makers.second / "config.json").read_text()
    (makers.second / "config.json").write_text(kept + " ")
    assert admin(house, f"{path}/promote").status_code == 400
    assert "config.json" in house.entries("model.refused")[0]["facts"]["why"]
    (makers.second / "config.json").write_text(kept)
    assert admin(house, f"{path}/promote").status_code == 200


def test_adapters_must_be_signed_too(house: Audited, makers: Makers, tmp_path: Path) -> None:
    red = serving.make_adapters(makers.first, tmp_path / "adapters")["red"]
    refused = admin(house, "adapters", name="red", directory=str(red))
    assert refused.status_code == 400
    assert house.entries("model.refused")[0]["target"] == "red"
    sign(red, load_private(makers.key.with_suffix("")))
    assert admin(house, "adapters", name="red", directory=str(red)).status_code == 201
    (red / SIGNATURE).unlink()
    spec = ModelSpec(
        name="x",
        directory=makers.first,
        adapters={"red": red},
        trusted=house.services.models.host(house.model).spec.trusted,
    )
    with pytest.raises(SignatureError, match="not signed"):
        spec.check()


def test_a_model_that_changed_while_it_was_unloaded_is_not_loaded_again(
    house: Audited, makers: Makers
) -> None:
    assert admin(house, f"models/{house.model}/unload").status_code == 200
    (makers.first / "config.json").write_text((makers.first / "config.json").read_text() + " ")
    assert admin(house, f"models/{house.model}/load").status_code == 400
    assert "config.json" in house.entries("model.refused")[0]["facts"]["why"]
    messages = [{"role": "user", "content": "hi"}]
    asked = house.http.post(serving.PATH, json={"model": house.model, "messages": messages, "max_tokens": 2})
    assert asked.status_code == 503
    assert asked.json()["error"]["code"] == "model_refused"
    assert str(makers.first) not in asked.text  # whoever asks learns nothing of the disk
    assert "config.json" not in asked.text
    told = house.entries("model.refused")
    assert [(one["target"], one["actor"]) for one in told[:1]] == [(house.model, "server")]
    assert len(told) == 2


def test_the_first_model(house: Audited, makers: Makers, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ServeSettings(require_signature=(makers.key,))
    trail = house.services.directory.trail
    assert check_first(trail, makers.first, {}, {}, settings) == makers.id
    assert check_first(trail, makers.plain, {}, {}, ServeSettings()) is None  # the control: nothing is asked
    assert open_model(ModelSpec(name="y", directory=makers.plain)).signed_by is None
    with pytest.raises(SignatureError, match="is not signed"):
        check_first(trail, makers.plain, {}, {}, settings)
    with pytest.raises(SignatureError, match="is not signed"):
        check_first(Trail(), makers.first, {"draft_dir": makers.plain}, {}, settings)
    assert [one["actor"] for one in house.entries("model.refused")] == ["server"]
    words = ["serve", str(makers.plain), "--port", "0", "--require-signature", str(makers.key), "--no-audit"]
    assert _run(words) == 2
    assert "is not signed" in capsys.readouterr().err
    assert _run(["serve", str(makers.first), "--require-signature", str(makers.key.with_suffix(""))]) == 2
    assert "holds a private key" in capsys.readouterr().err


def test_several_keys_from_the_environment(tmp_path: Path) -> None:
    found = resolve_settings({}, environment={"HANOK_SERVE_REQUIRE_SIGNATURE": "a.pub,b.pub"})
    assert found.require_signature == (Path("a.pub"), Path("b.pub"))
