"""Merging: the formulas on small numbers, and models through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hanok.cli import main
from hanok.errors import CheckpointError, ConfigError
from hanok.models.checkpoint import load_model, save_model
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder
from hanok.models.lora import LoraConfig, Merged, add_adapter, save_adapter
from hanok.models.merge import MergeConfig, dare, linear, merge, slerp, ties

CONFIG = ModelConfig(vocab_size=40, hidden_size=32, num_layers=2, num_heads=2, pattern=("gqa",))


def test_linear_and_slerp() -> None:
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    torch.testing.assert_close(linear([a, b], [1, 3]), torch.tensor([0.25, 1.5]))
    half = slerp(a, b, 0.5)
    torch.testing.assert_close(half, (a + b) * 0.5**0.5)  # sin 45 / sin 90 of each
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    torch.testing.assert_close(slerp(a, 3 * a, 0.5), 2 * a)
    unit = slerp(a, b / 2, 0.3)
    assert unit.norm().item() == pytest.approx(1.0)
    assert torch.equal(slerp(torch.zeros(2), b, 0.5), b / 2)


def test_ties_trims_elects_and_averages_those_that_agree() -> None:
    """By hand: kept parts are the two largest; signs by the sum; the second number has one voice against two."""
    changes = [torch.tensor([3.0, -2.0, 0.1, 0.0]), torch.tensor([1.0, 5.0, 0.2, 0.0])]
    found = ties(changes, [1.0, 1.0], density=0.5)
    torch.testing.assert_close(found, torch.tensor([2.0, 5.0, 0.0, 0.0]))
    weighed = ties(changes, [3.0, 1.0], density=0.5)
    torch.testing.assert_close(weighed, torch.tensor([2.5, -2.0, 0.0, 0.0]))


def test_dare_keeps_the_mean() -> None:
    change = torch.ones(200_000)
    found = dare([change, change], [1.0, 1.0], 0.25, torch.Generator().manual_seed(0))
    assert set(found.unique().tolist()) == {0.0, 2.0, 4.0}
    assert found.mean().item() == pytest.approx(1.0, abs=0.02)


def tensors(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"w": torch.randn(6, 4, generator=generator), "b": torch.randn(4, generator=generator).bfloat16()}


def test_a_model_merged_with_itself_is_itself() -> None:
    a = tensors(0)
    for method in ("linear", "slerp", "ties"):
        config = MergeConfig(method=method, density=1.0)
        merged = merge(config, [a, a], base=tensors(1))
        for name, tensor in a.items():
            torch.testing.assert_close(merged[name], tensor, atol=1e-6, rtol=1e-2 if name == "b" else 1e-5)
            assert merged[name].dtype == tensor.dtype


def test_what_cannot_be_merged() -> None:
    a, b = tensors(0), tensors(1)
    with pytest.raises(ConfigError, match="slerp of 3"):
        merge(MergeConfig(method="slerp"), [a, b, a])
    with pytest.raises(ConfigError, match="needs the model"):
        merge(MergeConfig(method="ties"), [a, b])
    with pytest.raises(ConfigError, match="3 weights for 2"):
        merge(MergeConfig(weights=(1, 1, 1)), [a, b])
    with pytest.raises(CheckpointError, match=r"w is \(6, 4\) in one model and \(5, 4\)"):
        merge(MergeConfig(), [a, {**b, "w": torch.ones(5, 4)}])
    with pytest.raises(ConfigError, match="density"):
        MergeConfig(density=0.0)


def run(words: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 0


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    paths = []
    for seed in range(3):
        model = Decoder(CONFIG, generator=torch.Generator().manual_seed(seed))
        paths.append(tmp_path / f"m{seed}")
        save_model(model, paths[-1])
    return paths


def test_through_the_command_line(
    models: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "merged"
    arguments = [
        str(models[1]),
        str(models[2]),
        "--out",
        str(out),
        "--method",
        "ties",
        "--base",
        str(models[0]),
    ]
    run(["model", "merge", *arguments, "--density", "1.0"])
    merged, parts = load_model(out), [load_model(path) for path in models]
    name = "layers.0.mlp.gate_proj.weight"
    base, a, b = (part.state_dict()[name] for part in parts)
    expected = base + ties([a - base, b - base], [1, 1], 1.0)
    torch.testing.assert_close(merged.state_dict()[name], expected)
    capsys.readouterr()
    run(["model", "diff", str(models[0]), str(out), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["changed"][0]["relative"] > 0
    assert found["settings"] == []
    run(["model", "diff", str(out), str(out), "--json"])
    assert json.loads(capsys.readouterr().out)["changed"] == []


def test_convert_to_gguf_and_back_and_inspect_both(
    models: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["model", "convert", str(models[0]), "--out", str(tmp_path / "m.gguf"), "--dtype", "float32"])
    run(["model", "convert", str(tmp_path / "m.gguf"), "--out", str(tmp_path / "back"), "--dtype", "float32"])
    model, back = load_model(models[0]), load_model(tmp_path / "back")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, back.state_dict()[name]), name
    capsys.readouterr()
    for path in (tmp_path / "m.gguf", tmp_path / "back"):
        run(["model", "inspect", str(path), "--json"])
        found = json.loads(capsys.readouterr().out)
        assert found["family"] == "llama"
        assert found["layers"] == "2: 2 gqa"
        assert found["parameters"] == sum(p.numel() for p in model.parameters())


def test_convert_merges_an_adapter(models: list[Path], tmp_path: Path) -> None:
    model, config = load_model(models[0]), LoraConfig(rank=2)
    add_adapter(model, config, generator=torch.Generator().manual_seed(0))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.fill_(0.1)
    save_adapter(model, config, tmp_path / "adapter")
    out = tmp_path / "out"
    run(["model", "convert", str(models[0]), "--out", str(out), "--adapter", str(tmp_path / "adapter")])
    Merged(model).keep()
    for name, tensor in load_model(out).state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name])


@pytest.mark.parametrize("command", [
    ["inspect", "nowhere"], ["convert", "m0", "--out", "m1"], ["convert", "m0", "--out", "x", "--dtype", "q8_0"],
    ["merge", "m0", "--out", "x"], ["merge", "m0", "m1", "--out", "x", "--method", "dare"], ["diff", "m0", "nowhere"],
])  # fmt: skip
def test_bad_input_is_one_message(
    models: list[Path],
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(models[0].parent)
    with pytest.raises(SystemExit) as left:
        main(["model", *command])
    assert left.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
