"""Heads for later tokens from end to end: trained by a run, found beside its model, guessing in the engine."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_training as tiny

from hanok.engine.api import Request, SamplingParams
from hanok.engine.generator import LocalEngine
from hanok.errors import ConfigError
from hanok.kernels.native import native_available
from hanok.models.checkpoint import load_config
from hanok.training.run import train


@pytest.mark.skipif(not native_available(), reason="the native kernels are not built")
@pytest.mark.parametrize(
    ("pattern", "heads"), [(("kda", "mla"), 1), pytest.param(("gqa",), 2, marks=pytest.mark.slow)]
)
def test_a_run_with_heads_answers_in_fewer_steps(
    shards: Path, tmp_path: Path, pattern: tuple[str, ...], heads: int
) -> None:
    model = tiny.tiny_model(
        mtp_layers=heads, pattern=pattern, num_layers=2, num_heads=2, head_dim=16, kv_lora_rank=16,
        qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=16,
    )  # fmt: skip
    path = train(tiny.tiny_config(max_steps=60), shards=shards, out=tmp_path / "run", model=model).path
    assert (path / "mtp.safetensors").is_file()
    assert load_config(path).mtp_layers == heads
    with pytest.raises(ConfigError, match="run by PyTorch"):
        LocalEngine(path, speculation="own", weights="float32")
    plain, guessing = LocalEngine(path, speculation="off"), LocalEngine(path, speculation="own")
    own = guessing._scheduler._speculator  # type: ignore[union-attr]
    assert own is not None
    own._pace.lengths = lambda offers, rows, **_: [
        min(2, offer.limit) for offer in offers
    ]  # whatever the clock says
    prompt = guessing.tokenizer.encode("The tea house ")
    requests = [
        Request(id=str(n), prompt_ids=prompt, params=SamplingParams(max_tokens=60, temperature=t, seed=n, ignore_eos=True))
        for n, t in enumerate((0.0, 0.4))
    ]  # fmt: skip
    assert [c.ids for c in guessing.generate(requests)] == [c.ids for c in plain.generate(requests)]
    numbers = guessing.metrics()
    assert 0.1 * numbers.drafted_tokens < numbers.accepted_tokens < numbers.drafted_tokens
    assert numbers.steps < plain.metrics().steps
    assert plain.metrics().drafted_tokens == 0
    plain.close()
    guessing.close()


def test_own_heads_must_be_there(shards: Path, tmp_path: Path) -> None:
    path = train(
        tiny.tiny_config(max_steps=2), shards=shards, out=tmp_path / "run", model=tiny.tiny_model()
    ).path
    with pytest.raises(ConfigError, match="no heads for later tokens"):
        LocalEngine(path, speculation="own")
