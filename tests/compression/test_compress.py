"""From a model and a text to a directory of codes: what it holds, who reads it, how it goes on after a stop."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hanok.artefacts import open_artefact
from hanok.cli import _run
from hanok.compression import layers as room
from hanok.compression.calibrate import Moments, Rows, Watch, moments_of
from hanok.compression.compress import compress
from hanok.compression.folds import apply_fold, folds_of
from hanok.compression.hessian import hessian_of
from hanok.compression.measure import compare
from hanok.compression.rtn import rtn
from hanok.compression.settings import CompressConfig, Method
from hanok.compression.texts import read_texts
from hanok.data.tokenizer import Alphabet, tokenizer_files
from hanok.engine.api import Request, SamplingParams
from hanok.engine.generator import LocalEngine
from hanok.errors import ConfigError
from hanok.models.checkpoint import load_model, load_stored_bits, save_model
from hanok.models.coded import CodedParameter, stored_codes
from hanok.models.config import ModelConfig
from hanok.models.decoder import Block, Decoder
from hanok.models.linear import Linear, RMSNorm
from hanok.models.mlp import GatedMLP
from hanok.models.ragged import Ragged
from hanok.tokens import Tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")
SHAPE = {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "head_dim": 16, "intermediate_size": 128}
SMALL = CompressConfig(samples=40, length=48, held_out=2)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    lines = (f"The tea house number {n} opens at {n % 12} and costs {n * 37 % 101} won.\n" for n in range(60))
    file.write_text("".join(lines), encoding="utf-8")
    return file


def decoder_of(**changes: Any) -> Decoder:
    vocabulary = Tokenizer(tokenizer_files(Alphabet.of([]), [])).vocab_size
    config = ModelConfig(**{"vocab_size": vocabulary, "pattern": ("gqa",), **SHAPE, **changes})
    model = Decoder(config, generator=torch.Generator().manual_seed(0)).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def saved(model: Decoder, directory: Path) -> Path:
    directory.mkdir()
    save_model(model, directory)
    Tokenizer(tokenizer_files(Alphabet.of([]), [])).save(directory)
    return directory


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(decoder_of(num_kv_heads=4), tmp_path_factory.mktemp("base") / "model")


def coded(model: Decoder) -> dict[str, CodedParameter]:
    return {name: p for name, p in model.named_parameters() if isinstance(p, CodedParameter)}


def block_of(model: Decoder) -> Block:
    block = model.layers[0]
    assert isinstance(block, Block)
    return block


@pytest.mark.parametrize("method", ["rtn", "hqq", "gptq", "awq"])
def test_a_directory_that_keeps_its_codes(method: Method, model: Path, text: Path, tmp_path: Path) -> None:
    config = replace(SMALL, bits=3, group=64)
    made = compress(method, config, model=model, data=text, out=tmp_path / "out")
    assert open_artefact(tmp_path / "out").parents["source"] == open_artefact(model).hash
    assert not (tmp_path / ".out.layers").exists()
    assert load_stored_bits(tmp_path / "out") == 4
    found = coded(load_model(tmp_path / "out", dtype="stored"))
    assert len(found) == 14
    for parameter in found.values():
        assert parameter.stored.scales_NG.shape[1] == parameter.stored.cols // 64
        assert int(parameter.stored.integers().min()) >= -4
        assert int(parameter.stored.integers().max()) <= 3
    assert made.metrics["bits_a_coded_weight"] == 4.25
    assert 0 < made.metrics["kl"] < 2
    assert made.metrics["bytes_after"] < made.metrics["bytes_before"]
    assert (tmp_path / "out" / "report.html").is_file()


def test_rounding_is_what_the_formats_give(model: Path, text: Path, tmp_path: Path) -> None:
    compress("rtn", SMALL, model=model, data=text, out=tmp_path / "out")
    before, after = load_model(model), load_model(tmp_path / "out")
    for name, weight in before.named_parameters():
        theirs = after.get_parameter(name)
        expected = rtn(weight, 4, 32).values().half() if "_proj" in name else weight
        assert torch.equal(theirs, expected.float()), name


def killed_in_its_second_layer(model: Path, text: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole: Callable[..., None] = room._write_layer

    def killed(tensors: dict[str, Tensor], file: Path) -> None:
        if file.name == "layer-001.safetensors":
            raise KeyboardInterrupt
        whole(tensors, file)

    with monkeypatch.context() as patched:
        patched.setattr(room, "_write_layer", killed)
        with pytest.raises(KeyboardInterrupt):
            compress("gptq", SMALL, model=model, data=text, out=out)
    assert not out.exists()


def test_a_killed_run_goes_on_and_ends_the_same(
    model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compress("gptq", SMALL, model=model, data=text, out=tmp_path / "whole")
    killed_in_its_second_layer(model, text, tmp_path / "out", monkeypatch)
    with caplog.at_level("INFO"):
        compress("gptq", SMALL, model=model, data=text, out=tmp_path / "out")
    assert "going on at layer 1 of 2" in caplog.text
    first, second = (open_artefact(tmp_path / name).files["model.safetensors"] for name in ("whole", "out"))
    assert first["sha256"] == second["sha256"]


def test_layers_of_another_text_are_made_anew(
    model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    killed_in_its_second_layer(model, text, tmp_path / "out", monkeypatch)
    other = tmp_path / "other.txt"
    other.write_text(text.read_text(encoding="utf-8").upper(), encoding="utf-8")
    with caplog.at_level("INFO"):
        compress("gptq", SMALL, model=model, data=other, out=tmp_path / "out")
    assert "going on" not in caplog.text
    compress("gptq", SMALL, model=model, data=other, out=tmp_path / "whole")
    first, second = (open_artefact(tmp_path / name).files["model.safetensors"] for name in ("whole", "out"))
    assert first["sha256"] == second["sha256"]


def test_transformers_reads_it(
    model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fla", None)
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("compressed_tensors")
    compress("awq", replace(SMALL, group=64), model=model, data=text, out=tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    ours, ids = load_model(tmp_path / "out"), torch.arange(20, 60)
    with torch.no_grad():
        expected = theirs(ids[None]).logits[0]
        found = ours.logits(ours(ids, torch.tensor([0, 40], dtype=torch.int32))[0])
    assert (found - expected).std() < 0.01 * expected.std()  # they do not round weights to float16


def test_gates_of_delta_attention_stay(text: Path, tmp_path: Path) -> None:
    hybrid = decoder_of(
        pattern=("kda", "mla"), num_heads=2, head_dim=32, kv_lora_rank=32, qk_nope_head_dim=16,
        qk_rope_head_dim=16, v_head_dim=16,
    )  # fmt: skip
    base = saved(hybrid, tmp_path / "base")
    made = compress("gptq", SMALL, model=base, data=text, out=tmp_path / "out")
    after = load_model(tmp_path / "out", dtype="stored")
    for name in ("f_a_proj", "f_b_proj", "b_proj", "g_a_proj", "g_b_proj"):
        where = f"layers.0.self_attn.{name}.weight"
        assert torch.equal(after.get_parameter(where), hybrid.get_parameter(where))
    assert {n for n in coded(after) if n.startswith("layers.0.self_attn")} == {
        f"layers.0.self_attn.{name}_proj.weight" for name in "qkvo"
    }
    assert made.metrics["maps_left_plain"] == 5


def test_moments_are_those_of_what_the_maps_read(tmp_path: Path) -> None:
    block = block_of(decoder_of(num_kv_heads=2))
    assert isinstance(block.mlp, GatedMLP)
    lengths = [30, 7, 20]
    x_ND = torch.randn(57, 64, generator=torch.Generator().manual_seed(3))
    x_ND.numpy().tofile(tmp_path / "rows")
    found = moments_of(block, Rows(tmp_path / "rows", 64), lengths)
    assert found.keys() == {name for name, m in block.named_modules() if isinstance(m, Linear)}
    normed = block.input_layernorm(x_ND)
    for name in ("q_proj", "k_proj", "v_proj"):
        torch.testing.assert_close(
            found[f"self_attn.{name}"].hessian_KK, hessian_of(normed), atol=1e-5, rtol=1e-3
        )
    assert found["self_attn.q_proj"] is found["self_attn.v_proj"]
    with torch.no_grad():
        bounds = torch.tensor([0, 30, 37, 57], dtype=torch.int32)
        x_ND = x_ND + block.self_attn(normed, Ragged(bounds), None)
        inner = torch.nn.functional.silu(block.mlp.gate_proj(y := block.post_attention_layernorm(x_ND)))
        inner = inner * block.mlp.up_proj(y)
    torch.testing.assert_close(found["mlp.down_proj"].mean_abs_K, inner.abs().mean(0))
    assert found["mlp.down_proj"].rows == 57
    assert not any(m._forward_pre_hooks for m in block.modules()), "the watch is closed"
    assert isinstance(found["mlp.down_proj"], Moments)
    Watch(block).close()


@pytest.mark.skipif(
    not Path("/proc/self/smaps").is_file(), reason="only Linux says which pages are in memory"
)
def test_pages_of_files_are_given_back_behind_each_layer(text: Path, tmp_path: Path) -> None:
    """Of a model and its codes nearly nothing is in memory once every layer was read."""
    wide = {"hidden_size": 256, "num_layers": 4, "intermediate_size": 1024}
    base = saved(decoder_of(num_kv_heads=4, **wide), tmp_path / "base")
    compress("rtn", SMALL, model=base, data=text, out=tmp_path / "out")
    sides = [load_model(path, dtype="stored", sparing=True) for path in (base, tmp_path / "out")]
    for side in sides:
        side.requires_grad_(False)
    files = [path / "model.safetensors" for path in (base, tmp_path / "out")]
    compare(
        sides[0],
        sides[1],
        read_texts(text, base, samples=1, held_out=2, length=48, seed=1).held_out,
        keep=False,
    )
    for file in files:
        assert resident(file) < 0.25 * file.stat().st_size


def resident(file: Path) -> int:
    """Bytes of a mapped file that count as this process's memory."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        first = line.split(maxsplit=1)[0]
        if not first.endswith(":"):
            inside = line.endswith(str(file))
        elif inside and first == "Rss:":
            found += 1024 * int(line.split()[1])
    return found


@pytest.mark.parametrize("heads", [4, 2])
def test_a_fold_changes_nothing(heads: int) -> None:
    block = block_of(decoder_of(num_kv_heads=heads, qkv_bias=True, family="qwen2"))
    x_ND = torch.randn(30, 64, generator=torch.Generator().manual_seed(3))
    ragged = Ragged(torch.tensor([0, 30], dtype=torch.int32))
    before = block(x_ND, ragged, None)
    folds = folds_of(block)
    assert len(folds) == (4 if heads == 4 else 3)
    for fold in folds:
        width = block.get_submodule(fold.readers[0]).get_parameter("weight").shape[1]
        apply_fold(block, fold, 0.2 + 3 * torch.rand(width, generator=torch.Generator().manual_seed(width)))
    assert isinstance(block.input_layernorm, RMSNorm)
    torch.testing.assert_close(block(x_ND, ragged, None), before, atol=1e-5, rtol=1e-4)


def test_what_cannot_be(model: Path, text: Path, tmp_path: Path) -> None:
    for bad in ({"bits": 1}, {"group": 48}):
        with pytest.raises(ConfigError):
            replace(SMALL, **bad)
    with pytest.raises(ConfigError, match="already"):
        compress("rtn", SMALL, model=model, data=text, out=tmp_path)
    assert stored_codes(load_model(model).get_parameter("layers.0.mlp.up_proj.weight")) is None


def test_the_command_makes_what_the_engine_runs(model: Path, text: Path, tmp_path: Path) -> None:
    words = ["compress", str(model), "--data", str(text), "--out", str(tmp_path / "out"), "--method", "hqq"]
    assert _run([*words, "--held-out", "2", "--length", "48"]) == 0
    assert _run(words) == 2, "it is there already"
    engine = LocalEngine(tmp_path / "out")
    params = SamplingParams(max_tokens=5, temperature=0.0, ignore_eos=True)
    found = engine.generate([Request(id="one", prompt_ids=tuple(range(20, 40)), params=params)])[0]
    assert len(found.ids) == 5
