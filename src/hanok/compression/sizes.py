"""What a model weighs: bytes of its files, and bits a weight as the engine holds it (embedding and head counted)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hanok.kernels.formats import GROUP, Stored, span_of
from hanok.models.checkpoint import load_model, load_stored_bits
from hanok.models.coded import CodedParameter
from hanok.models.decoder import Decoder


@dataclass(frozen=True, slots=True)
class Sizes:
    """file_before, file_after: bytes of weights on disk. engine_bits: a weight of a matrix in memory, as `--weights auto` runs
    the directory."""

    file_before: int
    file_after: int
    weights: int
    coded: int
    coded_bits: float
    engine_bits: float

    def metrics(self) -> dict[str, float]:
        return {
            "bytes_before": self.file_before,
            "bytes_after": self.file_after,
            "bits_a_weight": 8 * self.file_after / self.weights,
            "bits_a_coded_weight": self.coded_bits,
            "coded_share": self.coded / self.weights,
            "bits_a_weight_in_the_engine": self.engine_bits,
            "bytes_in_the_engine": self.engine_bits * self.weights / 8,
        }


def sizes_of(model: Path, made: Path, head_bits: int) -> Sizes:
    decoder = load_model(made, dtype="stored", sparing=True)
    coded = [p for p in decoder.parameters() if isinstance(p, CodedParameter)]
    numbers = sum(p.numel() for p in coded)
    held = sum(_file_bits(p.stored) * p.numel() for p in coded)
    return Sizes(
        file_bytes(model),
        file_bytes(made),
        sum(p.numel() for p in decoder.parameters()),
        numbers,
        held / numbers if numbers else 0.0,
        _engine_bits(decoder, load_stored_bits(made), head_bits),
    )


def _file_bits(stored: Stored) -> float:
    """Of a code with its part of a scale and a zero point, which has the width of a code."""
    shared = 16 + (0 if stored.zeros_NG is None else stored.bits)
    return stored.bits + shared * stored.scales_NG.shape[-1] / stored.cols


def _shared_bits(stored: Stored | None) -> float:
    """A weight's part of a scale and a zero point, of 16 bits each in the engine; somewhat less than there is where maps that are
    packed together have groups of several sizes."""
    if stored is None:
        return 16 / GROUP
    group = GROUP << span_of(stored.cols // GROUP, stored.scales_NG.shape[-1])
    return 16 / group * (1 if stored.zeros_NG is None else 2)


def file_bytes(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.glob("*.safetensors"))


def _engine_bits(decoder: Decoder, kind: int | None, head_bits: int) -> float:
    """kind: the width of its codes; None = the engine takes bfloat16."""
    total = count = 0.0
    ends = {decoder.embed_tokens.weight, *(() if decoder.lm_head is None else (decoder.lm_head.weight,))}
    for parameter in decoder.parameters():
        if parameter.dim() < 2:
            continue
        bits = 16.0
        if kind is not None:
            stored = parameter.stored if isinstance(parameter, CodedParameter) else None
            own = kind if stored is None else stored.bits
            own = head_bits if any(parameter is end for end in ends) and head_bits < 16 else own
            bits = own + _shared_bits(stored)
        total += bits * parameter.numel()
        count += parameter.numel()
    return total / count
