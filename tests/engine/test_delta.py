"""Delta attention in the native step: what a prompt leaves behind, however long it is and however it was cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from hanok.engine.native import NativeDecoder
from hanok.kernels.conv import short_conv
from hanok.kernels.gates import log_decay
from hanok.kernels.kda.chunked import chunked_kda
from hanok.kernels.kda.reference import recurrent_kda
from hanok.kernels.native import native, native_available
from hanok.kernels.norms import split_normalised
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder
from hanok.models.kda import DeltaAttention

pytestmark = pytest.mark.skipif(not native_available(), reason="the native kernels are not built")
PATHS = native().step_paths() if native_available() else []
LENGTHS = (1, 31, 32, 33, 63, 64, 65, 127, 128, 200, 513)
SHAPE = {"vocab_size": 101, "hidden_size": 96, "num_heads": 2, "intermediate_size": 64, "max_context": 640}
GATES = {
    "softplus": {"head_dim": 112, "conv_size": 4},  # of vectors of 16: four, two and one together
    "bounded": {"head_dim": 48, "conv_size": 3, "kda_gate": "lower_bound"},
    "one tap": {"head_dim": 16, "conv_size": 1},
}
HYBRID = {
    "pattern": ("kda", "kda", "mla"),
    "num_layers": 3,
    "head_dim": 48,
    "kv_lora_rank": 32,
    "v_head_dim": 16,
}


def decoder_of(**settings: Any) -> Decoder:
    model = Decoder(ModelConfig(**SHAPE | settings), generator=torch.Generator().manual_seed(0)).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        scale = 0.1 if parameter.dim() == 1 else 0.7 * parameter.shape[-1] ** -0.5
        parameter.data += scale * torch.randn(parameter.shape, generator=generator)
    return model.requires_grad_(False)


def ids(count: int) -> list[int]:
    return torch.randint(101, (count,), generator=torch.Generator().manual_seed(3)).tolist()


def read(model: NativeDecoder, tokens: Sequence[int], pieces: Sequence[int]) -> Tensor:
    """Logits behind every token, fed piece by piece."""
    table, found, at = list(range(model.pool.size)), [], 0
    for piece in pieces:
        places = range(at, at + piece)
        found.append(model.step(tokens[at : at + piece], places, [0] * piece, [table], range(piece)))
        at += piece
    return torch.cat(found)


def memory(model: NativeDecoder, mixer: DeltaAttention) -> tuple[Tensor, Tensor]:
    """Of the first layer and place 0: state [H, K, V], inputs of the convolutions [taps - 1, 3 H K]."""
    states, tails = (
        (part[0] for part in model._states[:2]) if len(model._states) > 1 else (model._states[0][0],) * 2
    )
    inner = 3 * mixer.heads * mixer.width
    taps = mixer.q_conv1d.weight.shape[2]
    return states.view(mixer.heads, mixer.width, mixer.width), tails[: inner * (taps - 1)].view(
        taps - 1, inner
    )


def rounded(x: Tensor) -> Tensor:
    """As an input of a product in bfloat16."""
    return x.bfloat16().float()


def inputs(model: Decoder, mixer: DeltaAttention, tokens: Sequence[int]) -> tuple[Tensor, dict[str, Any]]:
    """What the first layer's recurrence is given: what goes into the convolutions [N, 3 H K], and its arguments."""
    x = rounded(model.layers[0].input_layernorm(model.embed_tokens.weight[list(tokens)]))
    qkv = torch.cat([x @ p.weight.mT for p in (mixer.q_proj, mixer.k_proj, mixer.v_proj)], dim=-1)
    taps = torch.cat([conv.weight for conv in (mixer.q_conv1d, mixer.k_conv1d, mixer.v_conv1d)]).squeeze(1)
    bounds = torch.tensor([0, len(tokens)], dtype=torch.int32)
    mixed, _ = short_conv(qkv, taps, bounds, None, activation="silu", output_final_state=False)
    low = rounded(x @ mixer.f_a_proj.weight.mT) @ mixer.f_b_proj.weight.mT
    q, k, v = split_normalised(mixed, mixer.heads)
    g = log_decay(low, mixer.A_log.exp().flatten(), mixer.dt_bias, mixer.lower_bound)
    beta = (x @ mixer.b_proj.weight.mT).sigmoid()
    names = ("q_NHK", "k_NHK", "v_NHV", "g_NHK", "beta_NH", "cu_seqlens")
    return qkv, dict(zip(names, (q, k, v, g, beta, bounds), strict=True))


@torch.no_grad()
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("gate", GATES)
def test_a_prompt_leaves_the_state_of_the_recurrence(gate: str, path: str) -> None:
    """Against the specification and against the chunk form, over lengths around the borders of what is read together."""
    model = decoder_of(pattern=("kda",), num_layers=1, **GATES[gate])
    for parameter in model.parameters():
        parameter.data = rounded(parameter) if parameter.dim() == 2 else parameter
    mixer = model.layers[0].self_attn
    assert isinstance(mixer, DeltaAttention)
    fast = NativeDecoder(model, kind="bf16", blocks=9, threads=2, slots=1, path=path)
    for length in LENGTHS:
        tokens = ids(length)
        read(fast, tokens, [length])
        state, tails = memory(fast, mixer)
        qkv, arguments = inputs(model, mixer, tokens)
        for oracle in (recurrent_kda, chunked_kda):
            _, expected = oracle(**arguments, output_final_state=True)
            assert expected is not None
            assert (state - expected[0]).abs().max() < 1e-4 * expected.abs().max(), (length, oracle)
        kept = len(tails)
        before = torch.cat([qkv.new_zeros(kept, qkv.shape[1]), qkv])[len(qkv) :]
        assert torch.allclose(tails, before, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("path", PATHS)
def test_long_prompts_are_those_of_the_decoder(path: str) -> None:
    """Its layers run in chunks; the error does not grow with the length beyond that of bfloat16."""
    model, tokens = decoder_of(**HYBRID), torch.tensor(ids(513))
    bounds = torch.tensor([0, 513], dtype=torch.int32)
    expected = model.logits(model(tokens, bounds)[0])
    found = read(NativeDecoder(model, kind="bf16", blocks=9, threads=2, path=path), tokens.tolist(), [513])
    model.set_compute_dtype(torch.bfloat16)
    rounded_too = model.logits(model(tokens, bounds)[0])
    for rows in (slice(0, 64), slice(449, 513)):
        ours, theirs = ((x[rows] - expected[rows]).std() for x in (found, rounded_too))
        assert ours < 1.5 * theirs


@torch.no_grad()
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_the_same_bits_however_a_prompt_is_cut(kind, path: str) -> None:
    """Logits and everything that is carried on, at lengths around the borders of what is read together."""
    model, tokens = decoder_of(**HYBRID), ids(513)
    fast = NativeDecoder(model, kind=kind, blocks=9, threads=2, slots=1, path=path)
    whole = read(fast, tokens, [513])
    left = [states[0].clone() for states in fast._states]
    for pieces in ([1, 63, 64, 65, 127, 128, 65], [31, 32, 33, 417], [1] * 40 + [200, 2, 271], [512, 1]):
        assert torch.equal(read(fast, tokens, pieces), whole)
        assert all(torch.equal(states[0], then) for states, then in zip(fast._states, left, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("path", PATHS)
def test_saves_of_any_rows_are_what_stood_behind_them(path: str) -> None:
    """Among the rows that are read together, next to each other, and at the end."""
    model, tokens = decoder_of(**HYBRID), ids(150)
    fast = NativeDecoder(model, kind="int8", blocks=3, threads=2, slots=1, spares=6, path=path)
    ends = [1, 31, 32, 64, 65, 150]
    saves = {end - 1: spare for end, spare in zip(ends, fast.spares, strict=True)}
    whole = fast.step(tokens, range(150), [0] * 150, [[0, 1, 2]], range(150), [0], saves)
    assert torch.equal(whole, read(fast, tokens, [150]))
    for end, spare in zip(ends, fast.spares, strict=True):
        read(fast, tokens[:end], [end])
        assert all(torch.equal(states[0], states[spare]) for states in fast._states)


@torch.no_grad()
def test_prompts_in_company_of_answers_and_guesses() -> None:
    """Rows of several sequences in one step: a prompt's, one of an answer, and a few that verify guesses."""
    model, tokens = decoder_of(**HYBRID), ids(300)
    fast = NativeDecoder(model, kind="int8", blocks=12, threads=2, slots=3)
    whole = read(fast, tokens, [300])
    tables = [[0, 1, 2, 3, 4], [5, 6, 7], [8, 9, 10]]
    starts, ends = [100, 120, 90], [300, 121, 97]
    for sequence, start in enumerate(starts):
        fast.step(tokens[:start], range(start), [0] * start, [tables[sequence]], [], [sequence])
    spans = [range(start, end) for start, end in zip(starts, ends, strict=True)]
    places = [place for span in spans for place in span]
    sequences = [sequence for sequence, span in enumerate(spans) for _ in span]
    found = fast.step([tokens[n] for n in places], places, sequences, tables, range(len(places)), [0, 1, 2])
    assert torch.equal(found, whole[places])
