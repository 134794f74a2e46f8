"""GGUF in and out: values as the gguf package has them, the same model on the other side."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import public_models as public
import pytest
import torch
from torch import Tensor

from hanok.errors import CheckpointError, ConfigError
from hanok.models.checkpoint import load_head_bits, load_model
from hanok.models.checkpoint.gguf import READABLE, GGUFFile, load_gguf, save_gguf
from hanok.models.coded import CodedParameter
from hanok.models.config import ModelConfig
from hanok.models.convert import convert
from hanok.models.decoder import Decoder
from hanok.models.lora import LoraConfig, add_adapter, save_adapter
from hanok.tokens import Tokenizer

gguf = pytest.importorskip("gguf")
pytestmark = pytest.mark.filterwarnings("ignore")
SHAPE = {
    "vocab_size": 96,
    "hidden_size": 64,
    "num_heads": 4,
    "num_kv_heads": 2,
    "num_layers": 2,
    "intermediate_size": 96,
}


def model_of(family: str, **options) -> Decoder:
    qwen = {"qk_norm": True} if family == "qwen3" else {"qkv_bias": True} if family == "qwen2" else {}
    config = ModelConfig(**SHAPE | {"pattern": ("gqa",), "family": family} | qwen | options)
    model = Decoder(config, generator=torch.Generator().manual_seed(0)).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


@torch.no_grad()
def logits_of(model: Decoder) -> Tensor:
    ids = torch.randint(96, (40,), generator=torch.Generator().manual_seed(2))
    hidden, _ = model(ids, torch.tensor([0, 40], dtype=torch.int32))
    return model.logits(hidden)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_round_trip(family: str, tmp_path: Path) -> None:
    model = model_of(family, tie_embeddings=family == "qwen3", head_dim=32 if family == "qwen3" else None)
    file = tmp_path / "model.gguf"
    save_gguf(model, file, kind="F32")
    again = load_gguf(file)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert torch.equal(logits_of(again), logits_of(model))
    for kind, tolerance in (("BF16", 0.1), ("F16", 0.02), ("Q8_0", 0.2)):
        save_gguf(model, file, kind=kind)
        difference = logits_of(load_gguf(file)) - logits_of(model)
        assert difference.abs().max() < tolerance * logits_of(model).std()


def test_llama_rows_lie_as_the_format_wants_them(tmp_path: Path) -> None:
    """Row 2i and 2i+1 of a head are a pair there; here i and i + half."""
    model = model_of("llama")
    save_gguf(model, tmp_path / "m.gguf", kind="F32")
    tensor = next(t for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors if t.name == "blk.0.attn_q.weight")
    ours = model.state_dict()["layers.0.self_attn.q_proj.weight"].view(4, 2, 8, 64)
    theirs = torch.from_numpy(np.array(tensor.data)).view(4, 8, 2, 64)
    assert torch.equal(theirs, ours.transpose(1, 2))


def test_a_stretched_llama_keeps_its_frequencies(tmp_path: Path) -> None:
    import sys

    sys.modules.setdefault("fla", None)  # type: ignore[arg-type]
    public.make("llama, Llama-3 RoPE").save_pretrained(tmp_path / "theirs")
    model = load_model(tmp_path / "theirs")
    save_gguf(model, tmp_path / "m.gguf", kind="F32")
    torch.testing.assert_close(
        logits_of(load_gguf(tmp_path / "m.gguf")), logits_of(model), atol=1e-5, rtol=1e-5
    )


def rewrite(plain: Path, to: Path, kind: str, changed: dict[str, np.ndarray]) -> None:
    """The same file with some tensors of a type of their own."""
    reader = gguf.GGUFReader(plain)
    writer = gguf.GGUFWriter(to, reader.get_field("general.architecture").contents())
    for field in reader.fields.values():
        if not field.name.startswith(("general.", "GGUF.", "tokenizer.")):
            writer.add_key_value(field.name, field.contents(), field.types[0])
    qtype = None if kind == "F32" else gguf.GGMLQuantizationType[kind]
    for tensor in reader.tensors:
        data = changed.get(tensor.name)
        if data is None:
            writer.add_tensor(tensor.name, np.array(tensor.data))
        else:
            writer.add_tensor(tensor.name, data, raw_dtype=qtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("kind", READABLE)
def test_types_are_read_as_the_package_reads_them(kind: str, tmp_path: Path) -> None:
    """Blocks of random bits: whatever a quantiser may have written."""
    rows, columns, generator = 96, 256, np.random.default_rng(0)
    model = model_of("llama", hidden_size=256, intermediate_size=256)
    save_gguf(model, tmp_path / "plain.gguf", kind="F32")
    qtype = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[qtype]
    values = generator.normal(size=(rows, columns)).astype(np.float32)
    if kind in ("F32", "F16", "BF16") or not kind.endswith("_K"):
        data = values if kind == "F32" else gguf.quantize(values, qtype)
    else:
        data = generator.integers(0, 256, size=(rows, columns // block * size), dtype=np.uint8)
        data.view(np.uint8)[:, :] &= 0x3F  # half-precision scales stay finite
    rewrite(tmp_path / "plain.gguf", tmp_path / "m.gguf", kind, {"token_embd.weight": data})
    found = load_gguf(tmp_path / "m.gguf").embed_tokens.weight
    expected = data if kind == "F32" else gguf.dequantize(data, qtype)
    assert torch.equal(found, torch.from_numpy(np.asarray(expected, dtype=np.float32)))


def test_a_byte_level_tokeniser_travels_in_the_file(tmp_path: Path) -> None:
    from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Plain

    from hanok.models.checkpoint.gguf import _PRE

    plain = Plain(models.BPE())
    split = pre_tokenizers.Split(Regex(_PRE["qwen2"]), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    plain.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    plain.decoder = decoders.ByteLevel()
    texts = ["한옥 마을의 찻집은 아홉 시에 엽니다. It's open at 9, 3500 won a cup."]
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        special_tokens=["<|end|>", "<|user|>"],
    )  # fmt: skip
    plain.train_from_iterator(texts * 5, trainer)
    template = "{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}"
    files = {
        "tokenizer.json": plain.to_str(),
        "tokenizer_config.json": json.dumps({"eos_token": "<|end|>", "chat_template": template}),
    }
    model = model_of("qwen2", vocab_size=plain.get_vocab_size() + 16)
    save_gguf(model, tmp_path / "m.gguf", kind="F16", tokenizer=files)
    back = Tokenizer(GGUFFile(tmp_path / "m.gguf").tokenizer_files())
    before = Tokenizer(files)
    for text in [*texts, "  두 칸\n\n줄", "🙂 3.14"]:
        assert back.encode(text) == before.encode(text)
    chat = [{"role": "user", "content": "한옥 <|end|>"}]
    assert back.encode_chat(chat).ids == before.encode_chat(chat).ids
    assert back.eos_id == before.eos_id
    assert load_gguf(tmp_path / "m.gguf").config.eos_ids == (before.eos_id,)


def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    with pytest.raises(CheckpointError, match="no file"):
        GGUFFile(file)
    save_gguf(model_of("llama"), file)
    whole = file.read_bytes()
    for content in (b"", b"not a model at all" * 10, whole[:100], whole[: len(whole) // 2]):
        file.write_bytes(content)
        with pytest.raises(CheckpointError):
            load_gguf(file)
    writer = gguf.GGUFWriter(file, "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match='"mamba" is not read'):
        GGUFFile(file)
    with pytest.raises(ConfigError, match='"Q2_K" is not written'):
        save_gguf(model_of("llama"), file, kind="Q2_K")
    hybrid = Decoder(ModelConfig(vocab_size=20, hidden_size=32, num_heads=2, num_layers=1, pattern=("mla",)))
    with pytest.raises(CheckpointError, match="not written as GGUF"):
        save_gguf(hybrid, file)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize(
    ("kind", "weights"), [("Q4_0", "int4"), ("Q8_0", "int8"), ("Q4_0", "int8"), ("Q8_0", "int4")]
)
def test_codes_stay_in_a_quantised_directory(family: str, kind: str, weights: str, tmp_path: Path) -> None:
    """Number for number, where the directory has as many bits; the head is as fine as it was."""
    model = model_of(family, hidden_size=64, intermediate_size=96)
    save_gguf(model, tmp_path / "plain.gguf", kind="F32")
    qtype = gguf.GGMLQuantizationType[kind]
    matrices = {
        tensor.name: gguf.quantize(np.array(tensor.data), qtype)
        for tensor in gguf.GGUFReader(tmp_path / "plain.gguf").tensors
        if tensor.name.startswith("blk.") and len(tensor.shape) == 2
    }
    rewrite(tmp_path / "plain.gguf", tmp_path / "m.gguf", kind, matrices)
    convert(tmp_path / "m.gguf", tmp_path / "made", weights=weights)
    found, plain = load_model(tmp_path / "made", dtype="stored"), load_gguf(tmp_path / "m.gguf")
    exact = {name: one.stored for name, one in found.named_parameters() if isinstance(one, CodedParameter)}
    assert len(exact) == 7 * model.config.num_layers
    for name, stored in exact.items():
        equal = torch.equal(stored.quantised().dequantised(), plain.get_parameter(name))
        assert equal == ((kind, weights) != ("Q8_0", "int4")), name
        assert stored.bits == (4 if weights == "int4" else 8)
    assert load_head_bits(tmp_path / "made") == (8 if weights == "int4" else None)


def test_a_bias_has_no_codes_and_a_head_of_four_bits_stays_one(tmp_path: Path) -> None:
    model = model_of("qwen2", hidden_size=64, intermediate_size=96)
    save_gguf(model, tmp_path / "plain.gguf", kind="F32")
    qtype = gguf.GGMLQuantizationType.Q4_0
    changed = {
        tensor.name: gguf.quantize(np.array(tensor.data), qtype)
        for tensor in gguf.GGUFReader(tmp_path / "plain.gguf").tensors
        if (tensor.name.startswith("blk.") and "norm" not in tensor.name)
        or tensor.name == "token_embd.weight"
    }
    rewrite(tmp_path / "plain.gguf", tmp_path / "m.gguf", "Q4_0", changed)
    convert(tmp_path / "m.gguf", tmp_path / "made", weights="int4")
    assert load_head_bits(tmp_path / "made") is None
    found, plain = load_model(tmp_path / "made"), load_gguf(tmp_path / "m.gguf")
    name = "layers.0.self_attn.q_proj.bias"
    torch.testing.assert_close(found.get_parameter(name), plain.get_parameter(name), atol=1e-3, rtol=1e-3)


def test_an_adapter_changes_the_maps_that_it_has(tmp_path: Path) -> None:
    save_gguf(model_of("llama"), tmp_path / "m.gguf", kind="Q8_0")
    touched, *_ = names = [f"layers.{n}.self_attn.{x}_proj.weight" for n in (0, 1) for x in "qo"]
    base = load_gguf(tmp_path / "m.gguf")
    config = LoraConfig(rank=2, alpha=4.0, targets=("q_proj",))
    add_adapter(base, config)
    for name, parameter in base.named_parameters():
        if ".adapters." in name and "layers.0." in name:
            parameter.data.normal_(generator=torch.Generator().manual_seed(1))
    save_adapter(base, config, tmp_path / "adapter")
    convert(tmp_path / "m.gguf", tmp_path / "made", weights="int8", adapter=tmp_path / "adapter")
    found, plain = load_model(tmp_path / "made", dtype="stored"), load_gguf(tmp_path / "m.gguf")
    for name in names:
        parameter = found.get_parameter(name)
        assert isinstance(parameter, CodedParameter)
        equal = torch.equal(parameter.stored.quantised().dequantised(), plain.get_parameter(name))
        assert equal == (name != touched), name


def test_without_a_width_everything_is_plain(tmp_path: Path) -> None:
    save_gguf(model_of("llama"), tmp_path / "m.gguf", kind="Q8_0")
    convert(tmp_path / "m.gguf", tmp_path / "made")
    found, expected = load_model(tmp_path / "made"), load_gguf(tmp_path / "m.gguf", dtype=torch.float16)
    for name, parameter in found.named_parameters():
        assert torch.equal(parameter, expected.get_parameter(name).float())
