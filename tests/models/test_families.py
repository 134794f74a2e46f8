"""Public checkpoints in and out: saved by transformers and loaded here, saved here and loaded by transformers."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import public_models as public
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from hanok.errors import CheckpointError
from hanok.models.checkpoint import load_config, load_model, save_model
from hanok.models.decoder import Decoder

pytestmark = pytest.mark.filterwarnings("ignore")
LENGTH = 50


@pytest.fixture(scope="module", autouse=True)
def _transformers():
    patch = pytest.MonkeyPatch()
    patch.setitem(sys.modules, "fla", None)  # its kernels need a GPU and are taken when importable
    pytest.importorskip("transformers")
    yield
    patch.undo()


@pytest.fixture(scope="module", params=public.MODELS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """(directory that transformers wrote, its model, ours)."""
    directory = tmp_path_factory.mktemp("theirs")
    theirs = public.make(request.param)
    theirs.save_pretrained(directory)
    return directory, theirs, load_model(directory)


def ids(count: int = LENGTH) -> Tensor:
    return torch.randint(3, 101, (count,), generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def logits_of(model: Decoder, tokens: Tensor) -> Tensor:
    hidden, _ = model(tokens, torch.tensor([0, len(tokens)], dtype=torch.int32))
    return model.logits(hidden)


@torch.no_grad()
def test_equal_logits(both) -> None:
    _, theirs, ours = both
    for count in (1, 7, LENGTH):
        expected = theirs(ids(count)[None]).logits[0]
        torch.testing.assert_close(logits_of(ours, ids(count)), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_chunks_and_single_tokens_equal_the_whole(both) -> None:
    _, _, ours = both
    if ours.config.rope_scaling is not None and ours.config.rope_scaling.kind in ("dynamic", "longrope"):
        pytest.skip("cached keys keep the frequencies of a shorter text, as in transformers")
    whole = logits_of(ours, ids())
    for size in (1, 13):
        states, parts = ours.new_state(1), []
        for part in ids().split(size):
            hidden, states = ours(part, torch.tensor([0, len(part)], dtype=torch.int32), states)
            parts.append(ours.logits(hidden))
        torch.testing.assert_close(torch.cat(parts), whole, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_equal_greedy_continuation(both) -> None:
    _, theirs, ours = both
    if ours.config.rope_scaling is not None and ours.config.rope_scaling.kind in ("dynamic", "longrope"):
        pytest.skip("frequencies change with the length; compared without a cache above")
    tokens = theirs.generate(
        ids(9)[None], max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=0, use_cache=True
    )[0]
    states, fed, continued = ours.new_state(1), ids(9), ids(9).tolist()
    for _ in range(64):
        hidden, states = ours(fed, torch.tensor([0, len(fed)], dtype=torch.int32), states)
        fed = ours.logits(hidden[-1:]).argmax(-1)
        continued.append(int(fed))
    assert continued == tokens.tolist()


def test_written_back_under_the_same_names_and_values(both, tmp_path: Path) -> None:
    directory, theirs, ours = both
    save_model(ours, tmp_path)
    expected, written = (load_file(d / "model.safetensors") for d in (directory, tmp_path))
    if ours.config.family == "kimi_linear":  # transformers writes its dense layer as if it were sparse
        expected = {k.replace(".0.block_sparse_moe.", ".0.mlp."): v for k, v in expected.items()}
    assert sorted(written) == sorted(expected)
    for name, tensor in expected.items():
        assert torch.equal(tensor, written[name]), name
    again = load_model(tmp_path)
    assert again.config == ours.config

    import transformers

    loaded, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True, dtype=torch.float32, attn_implementation="eager"
    )
    assert not info["missing_keys"], info
    assert not info["unexpected_keys"], info
    assert type(loaded) is type(theirs)
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(ids()[None]).logits, theirs(ids()[None]).logits, atol=1e-5, rtol=1e-5
        )


def test_kimi_names_of_transformers_in_memory_are_read_too(tmp_path: Path) -> None:
    from hanok.models.families import FAMILIES

    theirs = public.make("kimi_linear")
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    assert "model.layers.0.self_attn.forget_gate.A_log" in theirs.state_dict()
    found = FAMILIES["kimi_linear"].incoming(dict(theirs.state_dict()), ours.config)
    assert set(found) == set(ours.state_dict())
    for name, tensor in ours.state_dict().items():
        assert torch.equal(found[name], tensor), name


def test_gradients_reach_every_weight(both) -> None:
    _, _, ours = both
    hidden, _ = ours(ids(), torch.tensor([0, 20, LENGTH], dtype=torch.int32))
    ours.logits(hidden).square().mean().backward()
    missing = [name for name, p in ours.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    ours.zero_grad(set_to_none=True)
    assert not missing


def test_an_unknown_family_names_the_nearest(tmp_path: Path) -> None:
    for values, nearest in (
        ({"model_type": "qwen3_5"}, "qwen3"),
        ({"model_type": "brandnew", "kv_lora_rank": 8, "auto_map": {"AutoModel": "x.py"}}, "deepseek_v3"),
        ({"model_type": "other"}, "llama"),
        ({}, "llama"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(values))
        with pytest.raises(CheckpointError, match=f"nearest supported family is {nearest}"):
            load_config(tmp_path)


@pytest.mark.parametrize("change", [
    {"num_attention_heads": "four"}, {"num_attention_heads": 5}, {"hidden_act": "tanh"}, {"vocab_size": None},
    {"rope_scaling": {"rope_type": "spiral", "factor": 2}}, {"quantization_config": {"quant_method": "bitsandbytes"}},
])  # fmt: skip
def test_a_config_out_of_range_is_one_clear_error(tmp_path: Path, change: dict) -> None:
    values = {k: v for k, v in public.SIZES.items() if k != "head_dim"} | {"model_type": "llama"} | change
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path)
    assert caught.value.remedy


def table() -> str:
    """What the tests above compare, as the documentation shows it."""
    from hanok.models.checkpoint.gguf import FAMILIES as IN_GGUF
    from hanok.models.families import FAMILIES

    kinds = {"gemma3": "gemma3_text"}
    tested: dict[str, list[str]] = {}
    for name in public.MODELS:
        family, _, variant = name.partition(", ")
        tested.setdefault(kinds.get(family, family), []).append(variant)
    rows = ["| `model_type` | public models | compared with transformers | GGUF |", "|---|---|---|---|"]
    for kind, family in FAMILIES.items():
        if kind != "hanok":
            variants = ", ".join(variant for variant in tested[kind] if variant) or "yes"
            rows.append(
                f"| `{kind}` | {family.examples} | {variants} | {'in, out' if kind in IN_GGUF else ''} |"
            )
    return "\n".join(rows)


def test_the_table_in_the_documentation_is_what_is_tested() -> None:
    """HANOK_WRITE_DOCS=1 writes it."""
    page = Path(__file__).parents[2] / "docs" / "guides" / "checkpoints.md"
    start, end = "<!-- families: made by tests/models/test_families.py -->", "<!-- end -->"
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(start)
    wanted = f"{before}{start}\n{table()}\n{end}{rest.split(end, 1)[1]}"
    if os.environ.get("HANOK_WRITE_DOCS"):
        page.write_text(wanted, encoding="utf-8")
    assert page.read_text(encoding="utf-8") == wanted
