"""Files that are cut, twisted or made to mislead: one clear error, nothing executed, no half model."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hanok.errors import CheckpointError
from hanok.models.checkpoint import load_model, save_model
from hanok.models.checkpoint.weights import check_header, read_weights, write_weights
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder

CONFIG = ModelConfig(vocab_size=40, hidden_size=32, num_layers=2, num_heads=2, pattern=("gqa",))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    save_model(Decoder(CONFIG), tmp_path)
    return tmp_path


def twist(directory: Path, change) -> Path:
    """Rewrite the header: `change` gets it as a dictionary and returns JSON text."""
    file = directory / "model.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    text = change(json.loads(data[8 : 8 + length])).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    return file


def edited(**entries) -> object:
    return lambda header: json.dumps({key: entries.get(key, value) for key, value in header.items()})


def test_an_untouched_file_passes(directory: Path) -> None:
    check_header(directory / "model.safetensors")


@pytest.mark.parametrize("keep", [0, 5, 8, 100, 5000])
def test_cut_short(directory: Path, keep: int) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_model(directory)


def test_a_name_twice(directory: Path) -> None:
    def double(header: dict) -> str:
        name = "model.norm.weight"
        return json.dumps(header)[:-1] + f', "{name}": {json.dumps(header[name])}}}'

    twist(directory, double)
    with pytest.raises(CheckpointError, match=r'"model\.norm\.weight" twice'):
        load_model(directory)


@pytest.mark.parametrize(("entry", "what"), [
    ({"dtype": "F32", "shape": [32], "data_offsets": [0, 128]}, "overlaps|leaves a gap"),
    ({"dtype": "F32", "shape": [32], "data_offsets": [-4, 124]}, "no usable offsets"),
    ({"dtype": "F32", "shape": [32], "data_offsets": "all"}, "no usable offsets"),
    ({"data_offsets": None}, "no usable offsets"),
    ({"dtype": "OBJECT"}, "not known"),
    ({"shape": [33]}, "its shape and type need"),
    ({"shape": [-32]}, "no usable shape"),
    ({"shape": "32"}, "no usable shape"),
])  # fmt: skip
def test_entries_that_cannot_be(directory: Path, entry: dict, what: str) -> None:
    def change(header: dict) -> str:
        return json.dumps(header | {"model.norm.weight": header["model.norm.weight"] | entry})

    twist(directory, change)
    with pytest.raises(CheckpointError, match=what):
        load_model(directory)


def test_a_header_beyond_all_bounds(directory: Path) -> None:
    file = directory / "model.safetensors"
    with file.open("r+b") as opened:
        opened.write((200_000_000).to_bytes(8, "little"))
        opened.truncate(200_000_100)
    with pytest.raises(CheckpointError, match="claims 200,000,000 bytes"):
        load_model(directory)


@pytest.mark.parametrize("text", ["[]", "{", "[" * 100_000, '"x"'])
def test_a_header_that_is_no_object(directory: Path, text: str) -> None:
    twist(directory, lambda header: text)
    with pytest.raises(CheckpointError, match="header"):
        load_model(directory)


def test_missing_extra_and_misshapen_tensors(directory: Path) -> None:
    file = directory / "model.safetensors"
    tensors = load_file(file)
    for change, what in (
        (lambda t: {k: v for k, v in t.items() if "norm" not in k}, "lacks"),
        (lambda t: t | {"model.extra": torch.ones(2)}, "unknown tensor extra"),
        (lambda t: t | {"model.norm.weight": torch.ones(31)}, r"shape \(31,\), expected \(32,\)"),
        (lambda t: t | {"model.norm.weight": torch.full((32,), float("inf"))}, "NaN or infinity"),
    ):
        save_file(change(tensors), file)
        with pytest.raises(CheckpointError, match=what):
            load_model(directory)


class _Touch:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return Path(self.path).touch, ()


def test_a_pickle_is_never_opened(directory: Path) -> None:
    canary = directory / "canary"
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(pickle.dumps(_Touch(str(canary))))
    with pytest.raises(CheckpointError, match="never opened"):
        load_model(directory)
    (directory / "pytorch_model.bin").rename(directory / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_model(directory)
    assert not canary.exists()


def test_shards(directory: Path) -> None:
    model = load_model(directory)
    (directory / "model.safetensors").unlink()
    save_model(model, directory, shard_bytes=10_000)
    files = sorted(directory.glob("model-*.safetensors"))
    assert len(files) > 3
    again = load_model(directory)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    index = directory / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    name = next(iter(values["weight_map"]))
    for place, what in (("../x.safetensors", "not there"), ("model-00099-of-00099.safetensors", "not there")):
        index.write_text(json.dumps(values | {"weight_map": values["weight_map"] | {name: place}}))
        with pytest.raises(CheckpointError, match=what):
            load_model(directory)
    index.write_text(
        json.dumps(values | {"weight_map": values["weight_map"] | {"model.ghost": files[0].name}})
    )
    with pytest.raises(CheckpointError, match=r"lacks model\.ghost"):
        load_model(directory)
    index.write_text("{}")
    with pytest.raises(CheckpointError, match="not readable"):
        load_model(directory)


def test_stored_types_are_kept_and_mapped(directory: Path) -> None:
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(directory / "model.safetensors").items()}
    write_weights(tensors, directory)
    stored = load_model(directory, dtype="stored")
    assert {p.dtype for p in stored.parameters()} == {torch.bfloat16}
    assert stored.compute_dtype == torch.bfloat16
    assert {p.dtype for p in load_model(directory).parameters()} == {torch.float32}
    save_model(stored, directory)
    assert json.loads((directory / "config.json").read_text())["dtype"] == "bfloat16"
    for name, tensor in read_weights(directory).items():
        assert torch.equal(tensor, tensors[name]), name
