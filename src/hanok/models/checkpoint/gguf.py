"""GGUF files of the Llama and Qwen families, in and out, through the `gguf` package.

Quantised tensors are dequantised on reading; maps of layers in Q8_0 and Q4_0, which are codes in groups of 32 as ours, can keep
these. Llama's query and key rows lie there for neighbouring rotary pairs; ours are half a head apart, so they are put back in
order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hanok.errors import CheckpointError, ConfigError
from hanok.kernels.formats import Stored, pack_words
from hanok.models.coded import CodedParameter
from hanok.models.config import ModelConfig, RopeScaling
from hanok.models.decoder import Decoder
from hanok.reporting import log

READABLE = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")
_CODES = {"Q8_0": 8, "Q4_0": 4}  # a float16 scale before the codes of each block of 32
WRITABLE = ("F32", "F16", "BF16", "Q8_0")
FAMILIES = ("llama", "qwen2", "qwen3")
_NAMES = {
    "token_embd": "embed_tokens", "output_norm": "norm", "output": "lm_head", "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
_CONTRACTED, _REST = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)", r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PRE = {  # how text is cut before BPE: names of llama.cpp, and the pattern that each stands for
    "llama-bpe": _CONTRACTED + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + _REST,
    "qwen2": _CONTRACTED + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + _REST,
}
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4  # kinds of tokens


class GGUFFile:
    """One file, mapped. Raises CheckpointError where it is damaged or of another family."""

    def __init__(self, file: Path) -> None:
        import gguf

        try:
            self._reader = gguf.GGUFReader(file)
        except FileNotFoundError as error:
            raise CheckpointError(f"no file {file}", remedy="give a GGUF file") from error
        except (
            ValueError,
            OSError,
            IndexError,
            KeyError,
            OverflowError,
            MemoryError,
            UnicodeDecodeError,
        ) as error:
            raise CheckpointError(f"{file}: {error}", remedy="the file is damaged, or is not GGUF") from error
        self.file = file
        self.family = str(self._value("general.architecture"))
        if self.family not in FAMILIES:
            raise CheckpointError(
                f'{file}: architecture "{self.family}" is not read from GGUF',
                remedy=f"known: {', '.join(FAMILIES)}",
            )

    def config(self) -> ModelConfig:
        """The model's shape, from the metadata."""
        heads = int(self._of("attention.head_count"))
        width = int(self._of("embedding_length"))
        head_dim = int(self._of("attention.key_length", width // heads))
        names = {tensor.name for tensor in self._reader.tensors}
        context = int(self._of("context_length"))
        return ModelConfig(
            family=self.family, vocab_size=len(self._tensor("token_embd.weight").data), hidden_size=width,
            num_layers=int(self._of("block_count")), num_heads=heads, head_dim=head_dim, pattern=("gqa",),
            num_kv_heads=int(self._of("attention.head_count_kv", heads)), max_context=context,
            intermediate_size=int(self._of("feed_forward_length")), rope_theta=float(self._of("rope.freq_base", 1e4)),
            rope_fraction=int(self._of("rope.dimension_count", head_dim)) / head_dim,
            rope_scaling=self._scaling(context, names), norm_eps=float(self._of("attention.layer_norm_rms_epsilon")),
            qk_norm=self.family == "qwen3", qkv_bias="blk.0.attn_q.bias" in names,
            tie_embeddings="output.weight" not in names, bos_id=self._id("bos"), pad_id=self._id("padding"),
            eos_ids=tuple(x for x in (self._id("eos"),) if x is not None),
        )  # fmt: skip

    def tensors(
        self, config: ModelConfig, *, dtype: torch.dtype, keep_codes: bool = False
    ) -> Iterator[tuple[str, Tensor]]:
        """Our names and tensors, one at a time; of maps of layers, `keep_codes`, those codes that ours are like."""
        for tensor in self._reader.tensors:
            if tensor.name == "rope_freqs.weight":
                continue
            name = _ours(tensor.name)
            if name is None:
                raise CheckpointError(
                    f"{self.file}: unknown tensor {tensor.name}", remedy="is it of this family?"
                )
            matrix = name.startswith("layers.") and len(tensor.shape) == 2
            if keep_codes and matrix and tensor.tensor_type.name in _CODES:
                yield name, CodedParameter.of(_codes(name, tensor, config))
            else:
                yield name, _in_order(name, self._plain(tensor), config, theirs=True).to(dtype)

    def kinds(self) -> dict[str, int]:
        """How many tensors there are of each type."""
        found: dict[str, int] = {}
        for tensor in self._reader.tensors:
            kind = tensor.tensor_type.name
            found[kind] = found.get(kind, 0) + 1
        return found

    def has_fine_head(self) -> bool:
        """Whether the map to the vocabulary has more than four bits."""
        names = {tensor.name: tensor.tensor_type.name for tensor in self._reader.tensors}
        return names.get("output.weight", names.get("token_embd.weight")) not in ("Q4_0", "Q4_1", "Q4_K")

    def tokenizer_files(self) -> dict[str, str]:
        """`tokenizer.json` and `tokenizer_config.json`, made from the metadata.

        Raises:
            CheckpointError: a tokeniser that is not BPE over bytes, or is cut in a way that we do not know.
        """
        kind, pre = self._value("tokenizer.ggml.model"), str(self._value("tokenizer.ggml.pre", "default"))
        if kind != "gpt2" or pre not in _PRE:
            raise CheckpointError(
                f'{self.file}: the tokeniser "{kind}", cut as "{pre}", is not converted',
                remedy="give the directory of the tokeniser that it was made from with --tokenizer",
            )
        tokens: list[str] = self._value("tokenizer.ggml.tokens")
        kinds = self._value("tokenizer.ggml.token_type")
        merges = [merge.split(" ", 1) for merge in self._value("tokenizer.ggml.merges")]
        added = [
            {"id": n, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": kinds[n] == _CONTROL}
            for n, token in enumerate(tokens) if kinds[n] in (_CONTROL, _USER_DEFINED)
        ]  # fmt: skip
        split = {"type": "Split", "pattern": {"Regex": _PRE[pre]}, "behavior": "Isolated", "invert": False}
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
        model = {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]}, "post_processor": None,
            "decoder": {**level, "use_regex": True},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": pre == "llama-bpe",
                      "vocab": {token: n for n, token in enumerate(tokens)}, "merges": merges},
        }  # fmt: skip
        settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
        for role, key in (("bos", "bos_token"), ("eos", "eos_token"), ("padding", "pad_token")):
            number = self._id(role)
            if number is not None:
                settings[key] = tokens[number]
        template = self._value("tokenizer.chat_template", None)
        if template is not None:
            settings["chat_template"] = template
        return {
            "tokenizer.json": json.dumps(model, ensure_ascii=False),
            "tokenizer_config.json": json.dumps(settings, ensure_ascii=False),
        }

    def _scaling(self, context: int, names: set[str]) -> RopeScaling | None:
        if "rope_freqs.weight" in names:  # Llama 3: one divisor a frequency
            divisors = tuple(float(x) for x in self._plain(self._tensor("rope_freqs.weight")))
            return RopeScaling(
                kind="longrope", original_context=context, short_factor=divisors, long_factor=divisors,
                attention_factor=1.0,
            )  # fmt: skip
        kind, factor = self._of("rope.scaling.type", "none"), float(self._of("rope.scaling.factor", 1.0))
        if kind == "none" or factor == 1.0:
            return None
        if kind not in ("linear", "yarn"):
            raise CheckpointError(
                f'{self.file}: RoPE scaling "{kind}" is not read', remedy="use another file"
            )
        original = int(self._of("rope.scaling.original_context_length", context))
        return RopeScaling(kind=kind, factor=factor, original_context=original)

    def _plain(self, tensor: Any) -> Tensor:
        import gguf

        kind = tensor.tensor_type.name
        if kind not in READABLE:
            raise CheckpointError(
                f"{self.file}: {tensor.name} is {kind}, which is not read",
                remedy=f"known: {', '.join(READABLE)}",
            )
        if kind == "BF16":
            bits = torch.from_numpy(np.ascontiguousarray(tensor.data)).view(torch.bfloat16)
            return bits.view(tuple(int(n) for n in reversed(tensor.shape)))
        values = tensor.data if kind in ("F32", "F16") else gguf.dequantize(tensor.data, tensor.tensor_type)
        return torch.from_numpy(np.array(values))

    def _tensor(self, name: str) -> Any:
        found = next((tensor for tensor in self._reader.tensors if tensor.name == name), None)
        if found is None:
            raise CheckpointError(f"{self.file} lacks {name}", remedy="is it a whole model?")
        return found

    def _of(self, key: str, *default: Any) -> Any:
        return self._value(f"{self.family}.{key}", *default)

    def _id(self, role: str) -> int | None:
        number = self._value(f"tokenizer.ggml.{role}_token_id", None)
        return None if number is None else int(number)

    def _value(self, key: str, *default: Any) -> Any:
        field = self._reader.get_field(key)
        if field is not None:
            return field.contents()
        if default:
            return default[0]
        raise CheckpointError(f"{self.file} lacks {key}", remedy="is it a model's GGUF file?")


def load_gguf(file: Path, *, dtype: torch.dtype = torch.float32, keep_codes: bool = False) -> Decoder:
    """A decoder with the file's weights in `dtype`; `keep_codes` as of `GGUFFile.tensors`. Raises CheckpointError as `GGUFFile`
    does."""
    from hanok.models.checkpoint import assemble

    opened = GGUFFile(file)
    config = opened.config()
    tensors = dict(opened.tensors(config, dtype=dtype, keep_codes=keep_codes))
    return assemble(config, tensors, where=str(file))


def save_gguf(
    model: Decoder, file: Path, *, kind: str = "F16", tokenizer: Mapping[str, str] | None = None
) -> None:
    """Write a model of the Llama or Qwen families. Norms and biases are float32, embeddings and matrices `kind`.

    Args:
        kind: one of WRITABLE. tokenizer: the files of a byte-level tokeniser, put into the metadata.

    Raises:
        ConfigError: an unknown kind. CheckpointError: a model that these families do not express.
    """
    import gguf

    from hanok.models.families import family_of

    if kind not in WRITABLE:
        raise ConfigError(f'GGUF type "{kind}" is not written', remedy=f"known: {', '.join(WRITABLE)}")
    config, family = model.config, family_of(model.config).model_type
    if family not in FAMILIES or (
        config.rope_scaling is not None and config.rope_scaling.kind not in _SCALINGS
    ):
        raise CheckpointError(f"{family} is not written as GGUF", remedy=f"known: {', '.join(FAMILIES)}")
    if family == "qwen2" and config.num_heads * config.dim_of_head != config.hidden_size:
        raise CheckpointError(
            f"heads of {config.dim_of_head} do not fill {config.hidden_size}: llama.cpp reads no such Qwen2",
            remedy="save as safetensors",
        )
    temporary = file.with_name(file.name + ".tmp")
    writer = gguf.GGUFWriter(temporary, family)
    _write_settings(writer, config)
    if tokenizer is None:
        writer.add_tokenizer_model(
            "none"
        )  # llama.cpp takes token ids then, and refuses a file that says nothing
    else:
        _write_tokenizer(writer, tokenizer, config.vocab_size)
    wanted = gguf.GGMLQuantizationType[kind]
    divisors = _divisors(config)
    if divisors is not None:
        writer.add_tensor("rope_freqs.weight", divisors)
    for name, tensor in model.state_dict().items():
        if name.startswith("mtp.") or ".adapters." in name:
            continue
        values = _in_order(name, tensor.float(), config, theirs=False).contiguous().numpy()
        small = values.ndim == 1 or kind == "F32"
        data = values if small else gguf.quantize(values, wanted)
        writer.add_tensor(_theirs(name), data, raw_dtype=None if small else wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    temporary.replace(file)


_SCALINGS = ("linear", "yarn", "llama3", "longrope")


def _write_settings(writer: Any, config: ModelConfig) -> None:
    writer.add_context_length(config.max_context)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.mlp_width)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.dim_of_head)
    writer.add_value_length(config.dim_of_head)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.rope_width)
    writer.add_vocab_size(config.vocab_size)
    scaling = config.rope_scaling
    if scaling is not None and scaling.kind in ("linear", "yarn"):
        import gguf

        writer.add_rope_scaling_type(gguf.RopeScalingType(scaling.kind))
        writer.add_rope_scaling_factor(scaling.factor)
        if scaling.original_context:
            writer.add_rope_scaling_orig_ctx_len(scaling.original_context)


def _divisors(config: ModelConfig) -> np.ndarray | None:
    """Of each rotary frequency, where a stretch is written as such."""
    from hanok.models.rope import Rotary

    scaling = config.rope_scaling
    if scaling is None or scaling.kind not in ("llama3", "longrope"):
        return None
    assert config.rope_theta is not None
    plain = Rotary(config.rope_theta, config.rope_width, config.max_context)
    stretched = Rotary(config.rope_theta, config.rope_width, config.max_context, scaling)
    if stretched.attention_factor != 1.0 or scaling.short_factor != scaling.long_factor:
        raise CheckpointError(
            "LongRoPE with two sets of factors is not written as GGUF", remedy="save as safetensors"
        )
    return (plain.frequencies(1) / stretched.frequencies(1)).numpy()


def _write_tokenizer(writer: Any, files: Mapping[str, str], rows: int) -> None:
    """Tokens, merges and the template. Rows of the embedding beyond the tokens become unused tokens."""
    model, settings = (
        json.loads(files["tokenizer.json"]),
        json.loads(files.get("tokenizer_config.json", "{}")),
    )
    bpe = model["model"]
    added = {token["content"]: token for token in model["added_tokens"]}
    names = {number: name for name, number in bpe["vocab"].items()} | {
        t["id"]: name for name, t in added.items()
    }
    tokens = [names.get(n, f"[UNUSED{n}]") for n in range(rows)]
    kinds = [
        _NORMAL if name not in added and n in names else
        _CONTROL if name in added and added[name]["special"] else _USER_DEFINED
        for n, name in enumerate(tokens)
    ]  # fmt: skip
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in bpe["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_cut(model))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    for key, add in (
        ("bos_token", writer.add_bos_token_id), ("eos_token", writer.add_eos_token_id),
        ("pad_token", writer.add_pad_token_id),
    ):  # fmt: skip
        value = settings.get(key)
        name = value["content"] if isinstance(value, Mapping) else value
        if name in added:
            add(added[name]["id"])
    writer.add_add_bos_token(False)
    if isinstance(settings.get("chat_template"), str):
        writer.add_chat_template(settings["chat_template"])


def _cut(model: Mapping[str, Any]) -> str:
    """The name that llama.cpp has for the pre-tokeniser; where it has none, text may be cut in another way there."""
    found = re.findall(r'"Regex": "((?:[^"\\]|\\.)*)"', json.dumps(model.get("pre_tokenizer")))
    for pattern in found:
        for name, known in _PRE.items():
            if json.loads(f'"{pattern}"') == known:
                return name
    log.warning(
        "llama.cpp has no name for this pre-tokeniser: give it token ids, or expect other cuts of the text"
    )
    return "gpt-2"


def _codes(name: str, tensor: Any, config: ModelConfig) -> Stored:
    """Of four bits, number i of a block lies in the low half of byte i, number 16 + i in the high one."""
    bits = _CODES[tensor.tensor_type.name]
    blocks = torch.from_numpy(np.array(tensor.data)).unflatten(1, (-1, 2 + 4 * bits))
    scales_NG = blocks[..., :2].contiguous().view(torch.float16)[..., 0]
    codes = blocks[..., 2:]
    if bits == 4:
        q_NK = torch.cat([codes & 15, codes >> 4], dim=-1).view(torch.int8).flatten(1) - 8
    else:
        q_NK = codes.contiguous().view(torch.int8).flatten(1)
    words, scales = (
        _in_order(name, part, config, theirs=True) for part in (pack_words(q_NK, bits), scales_NG)
    )
    return Stored(words, scales, bits, q_NK.shape[1])


def _ours(name: str) -> str | None:
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
    if match is None or match[2] not in _NAMES:
        return None
    layer = "" if match[1] is None else f"layers.{match[1]}."
    return f"{layer}{_NAMES[match[2]]}.{match[3]}"


def _theirs(name: str) -> str:
    match = re.fullmatch(r"(?:layers\.(\d+)\.)?(.+)\.(weight|bias)", name)
    assert match is not None
    theirs = {ours: short for short, ours in _NAMES.items()}[match[2]]
    return ("" if match[1] is None else f"blk.{match[1]}.") + f"{theirs}.{match[3]}"


def _in_order(name: str, tensor: Tensor, config: ModelConfig, *, theirs: bool) -> Tensor:
    """Rows of Llama's queries and keys between neighbouring pairs (`theirs`) and halves of a head."""
    if config.family not in ("llama", "") or config.qk_norm:
        return tensor
    match = re.search(r"\.([qk])_proj\.(weight|bias)$", name)
    if match is None:
        return tensor
    heads = config.num_heads if match[1] == "q" else config.kv_heads
    pairs = (heads, config.dim_of_head // 2, 2) if theirs else (heads, 2, config.dim_of_head // 2)
    return tensor.unflatten(0, pairs).transpose(1, 2).flatten(0, 2)
