"""Packed weights are kept between starts, and only for the model that they were made from."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from hanok.engine import images
from hanok.engine.api import Request, SamplingParams
from hanok.engine.generator import LocalEngine
from hanok.kernels.native import native_available
from hanok.models.checkpoint import load_model, save_model

pytestmark = pytest.mark.skipif(not native_available(), reason="the native kernels are not built")
SHAPE = {"pattern": ("gqa",), "num_heads": 4, "num_kv_heads": 2, "hidden_size": 64, "initializer_range": 0.15}


@pytest.fixture
def model(tmp_path: Path, tiny, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HANOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(images, "LEAST_BYTES", 1)
    return tiny.save_tiny_model(tmp_path / "model", seed=3, **SHAPE)


def kept(model: Path) -> list[Path]:
    return sorted((model.parent / "cache" / "images").glob("*.safetensors"))


def answer(model: Path, weights: Any = "int4") -> tuple[int, ...]:
    engine = LocalEngine(model, weights=weights)
    params = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)
    return engine.generate([Request(id="a", prompt_ids=[5, 6, 7, 8], params=params)])[0].ids


@pytest.mark.parametrize("weights", ["int4", "int8"])
def test_the_second_start_takes_them_and_answers_the_same(
    model: Path, weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = answer(model, weights)
    assert len(kept(model)) == 1

    def never(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("packed anew")

    monkeypatch.setattr("hanok.engine.held.image", never)
    assert answer(model, weights) == first


def test_another_model_in_its_place_is_packed_anew(model: Path) -> None:
    before = answer(model)
    with torch.no_grad():
        changed = load_model(model)
        for parameter in changed.parameters():
            parameter.data = parameter * 1.5
    save_model(changed, model)
    assert answer(model) != before
    assert len(kept(model)) == 2


def test_a_damaged_one_is_made_anew(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = answer(model)
    (file,) = kept(model)
    file.write_bytes(file.read_bytes()[:1000])
    assert answer(model) == before
    assert "made anew" in caplog.text
    assert file.stat().st_size > 1000


def test_the_oldest_go_first_and_off_keeps_nothing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(model, "int8")
    (old,) = kept(model)
    os.utime(old, (1, 1))
    monkeypatch.setattr(images, "MOST_BYTES", old.stat().st_size)
    answer(model, "int4")
    assert old not in kept(model)
    assert len(kept(model)) == 1
    monkeypatch.setenv("HANOK_CACHE", "off")
    kept(model)[0].unlink()
    answer(model)
    assert not kept(model)


@pytest.mark.parametrize("changed", ["images.py", "held.py", "native.py", "stored.py"])
def test_other_code_packs_anew(
    model: Path, changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever decides which codes of a file are kept, how they are joined and how they lie."""
    for module, names in ((images, ("images.py", "held.py", "native.py")), (images.stored, ("stored.py",))):
        for name in names:
            (tmp_path / name).write_text(
                Path(module.__file__ or "").with_name(name).read_text(encoding="utf-8")
            )
        monkeypatch.setattr(module, "__file__", str(tmp_path / names[0]))

    def name() -> str:
        found = images.images_of(model, "int4")
        assert found is not None
        return found._file.name

    before = name()
    assert name() == before
    os.utime(tmp_path / changed, ns=(1, 1))
    assert name() != before


def test_other_tensors_beside_the_model_change_nothing(model: Path) -> None:
    answer(model)
    (model / "decoding_heads.safetensors.bak.safetensors").write_bytes(b"x")
    answer(model)
    assert len(kept(model)) == 1


def test_bfloat16_needs_none(model: Path) -> None:
    answer(model, "bf16")
    assert not kept(model)


def test_a_folder_that_cannot_be_written_costs_time_only(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (model.parent / "cache").write_text("a file where the folder should be")
    answer(model)
    assert "not kept" in caplog.text


def test_a_model_with_a_finer_head_and_the_same_as_a_draft_have_images_of_their_own(model: Path) -> None:
    """A draft runs in one kind throughout; what is kept of the model alone has embedding and head of eight bits."""
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(settings | {"hanok_head_bits": 8}))
    alone = answer(model)
    params = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)
    for _ in range(2):  # made, and found again
        engine = LocalEngine(model, weights="int4", draft_dir=model)
        assert engine.generate([Request(id="a", prompt_ids=[5, 6, 7, 8], params=params)])[0].ids == alone
        speculator: Any = engine._scheduler._speculator  # type: ignore[union-attr]
        assert speculator._draft._model.head.kind == "int4"
        assert engine._paged is not None
        assert engine._paged.head.kind == "int8"
        engine.close()
    assert len(kept(model)) == 2
