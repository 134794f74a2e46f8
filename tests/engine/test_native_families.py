"""Public families on the native kernels, from a directory that transformers wrote; the guide's table says which."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import public_models as public
import pytest
import torch
from torch import Tensor

from hanok.engine.adapter_maps import native_adapter
from hanok.engine.blocks import BLOCK
from hanok.engine.coverage import why_not_native
from hanok.engine.native import NativeDecoder
from hanok.engine.plain import text_logits
from hanok.kernels.native import native_available
from hanok.models.checkpoint import load_config, load_model
from hanok.models.decoder import Decoder

pytestmark = [
    pytest.mark.skipif(not native_available(), reason="the native kernels are not built"),
    pytest.mark.filterwarnings("ignore"),
]

REFUSED = {"phi3, partial LongRoPE": "stretch", "qwen3_next": "gdn"}
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "engine.md"


def changes(name: str) -> dict[str, int]:
    """Widths that fill vectors, as the real ones do."""
    if name.startswith(("phi3", "olmo2")):
        return {"hidden_size": 64}
    if name == "gpt2":
        return {"n_embd": 64}
    return {"kv_lora_rank": 32} if name.startswith(("deepseek", "kimi")) else {}


@pytest.fixture(scope="module", autouse=True)
def _transformers():
    patch = pytest.MonkeyPatch()
    patch.setitem(sys.modules, "fla", None)  # its kernels need a GPU and are taken when importable
    pytest.importorskip("transformers")
    yield
    patch.undo()


@torch.no_grad()
def logits_of(model: Decoder, tokens: Tensor) -> Tensor:
    hidden, _ = model(tokens, torch.tensor([0, len(tokens)], dtype=torch.int32))
    return model.logits(hidden)


@torch.no_grad()
@pytest.mark.parametrize("name", public.MODELS)
def test_equal_to_the_decoder(name: str, tmp_path: Path) -> None:
    public.make(name, **changes(name)).save_pretrained(tmp_path)
    why = why_not_native(load_config(tmp_path))
    if name in REFUSED:
        assert REFUSED[name] in str(why)
        return
    assert why is None
    model, tokens = (
        load_model(tmp_path),
        torch.randint(3, 101, (60,), generator=torch.Generator().manual_seed(5)),
    )
    fast = NativeDecoder(model, kind="bf16", blocks=2, threads=2)
    found = torch.cat(list(fast.read(tokens.tolist(), rows=BLOCK)))
    expected = logits_of(model, tokens)
    model.set_compute_dtype(torch.bfloat16)
    ours, theirs = ((x - expected).abs().amax(1) / expected.std() for x in (found, logits_of(model, tokens)))
    assert ours.median() < 1.5 * theirs.median()
    assert ours.median() < 0.1


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in public.MODELS if name not in REFUSED])
def test_an_adapter_on_every_map_equals_that_of_the_decoder(name: str, tmp_path: Path, adapted) -> None:
    public.make(name, **changes(name)).save_pretrained(tmp_path)
    model = load_model(tmp_path)
    tokens = torch.randint(3, 101, (60,), generator=torch.Generator().manual_seed(5)).tolist()
    lows = adapted.random_lows(model, adapted.all_maps(model), seed=6, rank=3, scale=0.5)
    fast = NativeDecoder(model, kind="bf16", blocks=2, threads=2)
    found = torch.cat(list(fast.read(tokens, rows=BLOCK, adapter=native_adapter(model, lows))))
    expected, without = (torch.cat(list(text_logits(model, tokens, x, rows=BLOCK))) for x in (lows, None))
    ours, effect = ((x - expected).abs().amax(1) / expected.std() for x in (found, without))
    assert ours.median() < 0.1
    assert effect.median() > 0.5


def test_the_guide_names_them() -> None:
    row = next(line for line in GUIDE.read_text().splitlines() if line.startswith("| which models |"))
    native, pytorch = row.split("|")[2:4]
    assert set(re.findall(r"`(\w+)`", native)) == {n.split(",")[0] for n in public.MODELS if n not in REFUSED}
    assert set(re.findall(r"`(\w+)`", pytorch)) == {n.split(",")[0] for n in REFUSED}
