"""A server that takes signed models alone: the first, those after it, adapters; refusals are in the audit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import serving
import torch
from audited_house import Audited, audited_house
from safetensors.torch import load_file, save_file

from hanok.artefacts import signing
from hanok.artefacts.signing import SIGNATURE, load_private, make_key, sign
from hanok.cli import _run
from hanok.engine import images
from hanok.engine.api import Request, SamplingParams
from hanok.engine.generator import LocalEngine
from hanok.engine.parallel import start
from hanok.errors import SignatureError
from hanok.kernels.native import native_available
from hanok.server.app import check_first, first_spec
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
    assert check_first(trail, first_spec(makers.first, {}, {}, settings)) == makers.id
    nothing_asked = first_spec(makers.plain, {}, {}, ServeSettings())  # the control
    assert check_first(trail, nothing_asked) is None
    assert open_model(ModelSpec(name="y", directory=makers.plain)).signed_by is None
    with pytest.raises(SignatureError, match="is not signed"):
        check_first(trail, first_spec(makers.plain, {}, {}, settings))
    with pytest.raises(SignatureError, match="is not signed"):
        check_first(Trail(), first_spec(makers.first, {"draft_dir": makers.plain}, {}, settings))
    assert [one["actor"] for one in house.entries("model.refused")] == ["server"]
    words = ["serve", str(makers.plain), "--port", "0", "--require-signature", str(makers.key), "--no-audit"]
    assert _run(words) == 2
    assert "is not signed" in capsys.readouterr().err
    assert _run(["serve", str(makers.first), "--require-signature", str(makers.key.with_suffix(""))]) == 2
    assert "holds a private key" in capsys.readouterr().err


def test_a_request_for_what_was_refused_hashes_nothing_again(
    house: Audited, makers: Makers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor the draft and the adapters that are as they were signed."""
    read: list[Path] = []
    hashed = signing.sha256_file
    monkeypatch.setattr(signing, "sha256_file", lambda path: read.append(path) or hashed(path))
    assert admin(house, f"models/{house.model}/unload").status_code == 200
    host = house.services.models.host(house.model)
    host.spec = replace(host.spec, options={**host.spec.options, "draft_dir": makers.second})
    with (makers.first / "config.json").open("a") as file:
        file.write(" ")
    for path in [*makers.first.iterdir(), *makers.second.iterdir()]:
        os.utime(path, (1, 1))
    body = {"model": house.model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    for hashes in (True, False, False):
        read.clear()
        assert house.http.post(serving.PATH, json=body).status_code == 503
        assert bool(read) is hashes
    with (makers.first / "config.json").open("r+") as file:
        file.truncate(len(file.read()) - 1)
    assert house.http.post(serving.PATH, json=body).status_code == 200  # mended: it is looked at anew


@pytest.mark.skipif(not native_available(), reason="the native kernels are not built")
def test_images_that_nobody_signed_are_not_run(
    makers: Makers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(images, "LEAST_BYTES", 1)
    options = {"weights": "int4", "draft_dir": makers.first}
    unsigned = first_spec(makers.first, options, {}, ServeSettings())
    signed = first_spec(makers.first, options, {}, ServeSettings(require_signature=(makers.key,)))
    answer = said_by(signed)
    assert not (tmp_path / "cache").exists()
    assert said_by(unsigned) == answer
    kept = list((tmp_path / "cache" / "images").iterdir())
    assert kept
    for file in kept:
        tensors = load_file(file)
        save_file(
            {name: t if t.dtype == torch.int64 else torch.zeros_like(t) for name, t in tensors.items()}, file
        )
    assert said_by(unsigned) != answer  # the control: what was tampered with is run
    assert said_by(signed) == answer


def said_by(spec: ModelSpec) -> tuple[int, ...]:
    engine = spec.open()
    try:
        params = SamplingParams(temperature=0.0, max_tokens=16, ignore_eos=True)
        return engine.generate([Request(id="a", prompt_ids=[5, 6, 7, 8], params=params)])[0].ids
    finally:
        engine.close()


def test_further_processes_check_what_they_read(makers: Makers, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(start, "run_together", lambda *_args, check: given.append(check))
    for words in (["--require-signature", str(makers.key)], []):
        assert _run(["serve", str(makers.plain), "--port", "0", "--no-audit", *words]) == 0
    assert given[1] is None
    assert given[0](makers.first).key_id == makers.id
    with pytest.raises(SignatureError, match="is not signed"):
        given[0](makers.plain)


def test_no_other_model_takes_the_place_of_one_in_several_processes(house: Audited, makers: Makers) -> None:
    """The others would read the first one's files again."""
    host = house.services.models.host(house.model)
    host.spec = replace(host.spec, options={**host.spec.options, "team": object()})
    for what in ("replace", "canary"):
        refused = admin(house, f"models/{house.model}/{what}", directory=str(makers.second))
        assert refused.status_code == 400
        assert "in one process alone" in refused.text


def test_several_keys_from_the_environment(tmp_path: Path) -> None:
    found = resolve_settings({}, environment={"HANOK_SERVE_REQUIRE_SIGNATURE": "a.pub,b.pub"})
    assert found.require_signature == (Path("a.pub"), Path("b.pub"))
