"""The positive control: a tiny model that is trained on a few of the texts until it knows them by heart, and on a canary.

The same attacks must find both; an audit whose control is not found says nothing about any model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from hanok.data.canaries import CanaryConfig, make_canaries
from hanok.evaluation.privacy.exposure import Exposure, exposure, texts_of
from hanok.evaluation.privacy.scores import Sample, familiarity, scores
from hanok.evaluation.privacy.separation import Separation, separate
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder
from hanok.tokens.tokenizer import Tokenizer

LEAST_AUC, LEAST_BITS = 0.9, 10.0
_TEXTS, _TOKENS = 16, 64  # of each side
_ALTERNATIVES = 2000
_MOST_STEPS, _ENOUGH = 400, 0.2  # nats a token


@dataclass(frozen=True, slots=True)
class Control:
    """By attack (without a reference model), and of the canary that was learnt."""

    attacks: Mapping[str, Separation]
    canary: Exposure
    steps: int
    loss: float

    @property
    def found(self) -> bool:
        best = max(one.auc for name, one in self.attacks.items() if name != "blind")
        return best >= LEAST_AUC and self.canary.bits >= LEAST_BITS


def run_control(
    members: Sequence[Sample], others: Sequence[Sample], tokenizer: Tokenizer, *, seed: int = 0
) -> Control:
    """Args: members, others: of the audit itself, so that the control reads what the model is asked about."""
    learnt, kept_out = ([cut(one, tokenizer) for one in some[:_TEXTS]] for some in (members, others))
    canary = make_canaries(CanaryConfig(repetitions=(1,), each=1, seed=seed))[-1]
    numbers = tokenizer.encode_batch(texts_of(canary, _ALTERNATIVES, seed=seed))
    narrow = _narrow([*(one.ids for one in (*learnt, *kept_out)), *numbers], tokenizer.bos_id)
    asked = [[narrow[token] for token in (tokenizer.bos_id, *ids)] for ids in numbers]
    learnt, kept_out = ([_narrowed(one, narrow) for one in some] for some in (learnt, kept_out))
    decoder, steps, loss = _overfit([*(one.ids for one in learnt), asked[0]], len(narrow), seed=seed)
    found = [[scores(one, familiarity(decoder, one), None) for one in some] for some in (learnt, kept_out)]
    attacks = {
        name: separate([one[name] for one in found[0]], [one[name] for one in found[1]])
        for name in found[0][0]
    }
    return Control(attacks, exposure(decoder, asked, canary), steps, loss)


def _overfit(texts: Sequence[Sequence[int]], vocabulary: int, *, seed: int) -> tuple[Decoder, int, float]:
    """A model of some hundred thousand parameters, and what it took."""
    config = ModelConfig(
        vocab_size=vocabulary, hidden_size=64, num_layers=2, pattern=("gqa",), num_heads=4, num_kv_heads=4, head_dim=16,
        intermediate_size=128, max_context=_TOKENS + 64,
    )  # fmt: skip
    decoder = Decoder(config, generator=torch.Generator().manual_seed(seed))
    bounds = torch.tensor([0, *np.cumsum([len(ids) - 1 for ids in texts]).tolist()], dtype=torch.int32)
    ids_N = torch.tensor([token for ids in texts for token in ids[:-1]])
    targets_N = torch.tensor([token for ids in texts for token in ids[1:]])
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=0.01, weight_decay=0.0)
    step, nats = 0, float("inf")
    while step < _MOST_STEPS and nats > _ENOUGH:
        hidden_ND, _ = decoder(ids_N, bounds)
        loss = torch.nn.functional.cross_entropy(decoder.logits(hidden_ND), targets_N)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        step, nats = step + 1, float(loss.detach())
    return decoder.requires_grad_(False), step, nats


def cut(sample: Sample, tokenizer: Tokenizer) -> Sample:
    """The first tokens, all of them counted, and their text: every attack reads the same."""
    ids = list(sample.ids[:_TOKENS])
    return Sample(ids, np.ones(len(ids), dtype=bool), tokenizer.decode(ids))


def _narrow(texts: Sequence[Sequence[int]], first: int) -> dict[int, int]:
    """Ids that occur to small ones: a large vocabulary would make a large model."""
    known = dict.fromkeys([first, *(int(token) for ids in texts for token in ids)])
    return {token: place for place, token in enumerate(known)}


def _narrowed(sample: Sample, narrow: Mapping[int, int]) -> Sample:
    return replace(sample, ids=[narrow[int(token)] for token in sample.ids])
