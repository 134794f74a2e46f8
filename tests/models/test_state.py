"""One model, three ways: the whole sequence at once, in chunks, token by token; and no sequence sees another."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hanok.models.config import ModelConfig, MoEConfig
from hanok.models.decoder import Decoder

HYBRID = {"num_layers": 4, "pattern": ("kda", "kda", "kda", "mla"), "head_dim": 16, "kv_lora_rank": 24}
MODELS = {
    "hybrid": HYBRID,
    "bounded gate": HYBRID | {"kda_gate": "lower_bound"},
    "grouped-query with RoPE": {"num_layers": 2, "pattern": ("gqa",), "num_kv_heads": 2},
    "sliding window": {"num_layers": 2, "pattern": ("swa", "gqa"), "num_kv_heads": 2, "sliding_window": 7},
    "query and key norms": {"num_layers": 2, "pattern": ("gqa",), "num_kv_heads": 1, "qk_norm": True},
    "mixture": HYBRID | {"moe": MoEConfig(experts=4, per_token=2, width=32, shared=1, router="sigmoid")},
}


def model_of(name: str) -> Decoder:
    """Output projections are filled: fresh ones are zero and would hide every mistake."""
    config = ModelConfig(**({"vocab_size": 61, "hidden_size": 48, "num_heads": 4} | MODELS[name]))
    model = Decoder(config, generator=torch.Generator().manual_seed(0)).eval()
    generator = torch.Generator().manual_seed(1)
    for key, parameter in model.named_parameters():
        if not key.endswith(("A_log", "dt_bias")):
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def bounds(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)


@torch.no_grad()
def in_chunks(model: Decoder, sequences: list[Tensor], size: int) -> list[Tensor]:
    """Hidden vectors of each sequence, fed `size` tokens at a time, all sequences in one ragged batch with their states."""
    states = model.new_state(len(sequences))
    parts: list[list[Tensor]] = [[] for _ in sequences]
    for start in range(0, max(map(len, sequences)), size):
        pieces = [sequence[start : start + size] for sequence in sequences]
        lengths = [len(piece) for piece in pieces]
        hidden, states = model(torch.cat(pieces), bounds(lengths), states)
        assert states is not None
        for part, piece in zip(parts, hidden.split(lengths), strict=True):
            part.append(piece)
    return [torch.cat(part) for part in parts]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [1, 5, 16, 64])
def test_chunks_and_single_tokens_equal_the_whole(name: str, size: int) -> None:
    model = model_of(name)
    generator = torch.Generator().manual_seed(2)
    sequences = [torch.randint(61, (length,), generator=generator) for length in (37, 37, 37)]
    with torch.no_grad():
        whole, _ = model(torch.cat(sequences), bounds([37, 37, 37]))
    for ours, expected in zip(in_chunks(model, sequences, size), whole.split([37, 37, 37]), strict=True):
        torch.testing.assert_close(ours, expected, atol=3e-5, rtol=3e-5)


@pytest.mark.parametrize("name", MODELS)
def test_sequences_of_other_lengths_in_the_batch_change_nothing(name: str) -> None:
    model = model_of(name)
    generator = torch.Generator().manual_seed(3)
    sequences = [torch.randint(61, (length,), generator=generator) for length in (1, 40, 7, 19)]
    with torch.no_grad():
        batch, _ = model(torch.cat(sequences), bounds([len(s) for s in sequences]))
        for sequence, ours in zip(sequences, batch.split([len(s) for s in sequences]), strict=True):
            alone, _ = model(sequence, bounds([len(sequence)]))
            torch.testing.assert_close(ours, alone, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_one_sequence_do_not_reach_another(name: str) -> None:
    model = model_of(name)
    ids = torch.randint(61, (24,), generator=torch.Generator().manual_seed(4))
    model.embed_tokens.weight.requires_grad_(True)
    embedded: list[Tensor] = []

    def keep(_module: torch.nn.Module, _inputs: object, output: Tensor) -> None:
        output.retain_grad()
        embedded.append(output)

    handle = model.embed_tokens.register_forward_hook(keep)
    hidden, _ = model(ids, bounds([10, 14]))
    handle.remove()
    hidden[10:].square().sum().backward()
    assert embedded[0].grad is not None
    assert embedded[0].grad[:10].abs().max() == 0
    assert embedded[0].grad[10:].abs().min() >= 0
    assert embedded[0].grad[10:].abs().max() > 0


def test_a_changed_future_does_not_change_the_past() -> None:
    for name in MODELS:
        model = model_of(name)
        ids = torch.randint(61, (30,), generator=torch.Generator().manual_seed(5))
        other = ids.clone()
        other[20:] = (other[20:] + 1) % 61
        with torch.no_grad():
            a, _ = model(ids, bounds([30]))
            b, _ = model(other, bounds([30]))
        torch.testing.assert_close(a[:20], b[:20], atol=1e-6, rtol=1e-6)
        assert not torch.allclose(a[20:], b[20:])
