"""A reward model: a decoder with one score a text, read at its last token; trained on pairs (Bradley and Terry 1952).

    model/               a model directory like any other
    model/reward_head.safetensors    weight [1, D] and bias [1] of the score; with --likelihood also likelihood [2]

What stands at the last token says little of whether a fact in the middle is true, and some thousand pairs do not teach it
to. But a model that knows the fact finds a wrong one improbable: with `likelihood` the score also reads the answer's mean
and least log-probability under the reward model's own law, whose head stays and is trained along.

P pairs, B = 2P texts, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hanok.errors import CheckpointError
from hanok.models.checkpoint import load_model
from hanok.models.decoder import Decoder
from hanok.tokens.tokenizer import Tokenizer
from hanok.training.align.config import AlignConfig
from hanok.training.align.examples import Pair, answer_ids, joined, prompt_ids
from hanok.training.align.preference import validate_pairs
from hanok.training.objective import Loss
from hanok.training.objectives.logprobs import linear_logprobs
from hanok.training.objectives.preference import PreferenceLoss
from hanok.training.objectives.reward_model import bradley_terry_loss
from hanok.training.packing import PackedSequence, micro_batches, pack

HEAD = "reward_head.safetensors"
_GAIN = 10.0  # the head learns so many times faster than vectors of the model that were trained before


class ScalarHead(nn.Module):
    """One number from a hidden vector: 10 (w h + b). Its file has the factor inside.

    Args:
        generator: draws the first scores, with a standard deviation of 1 / sqrt(width + 1) a weight (arXiv 2009.01325);
            None begins at zero, as values do.
    """

    def __init__(self, width: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, width))
        self.bias = nn.Parameter(torch.zeros(1))
        if generator is not None:
            nn.init.normal_(self.weight, std=(width + 1) ** -0.5 / _GAIN, generator=generator)

    def forward(self, hidden_ND: Tensor) -> Tensor:
        return _GAIN * (hidden_ND.float() @ self.weight[0] + self.bias)

    def save(self, file: Path) -> None:
        save_file({name: _GAIN * value.detach() for name, value in self.named_parameters()}, file)

    @classmethod
    def load(cls, file: Path, width: int) -> Self:
        """Raises CheckpointError: missing, damaged or of another width."""
        try:
            tensors = load_file(file)
            head = cls._like(tensors, width)
            with torch.no_grad():
                for name, parameter in head.named_parameters():
                    parameter.copy_(tensors[name] / _GAIN)
        except Exception as error:
            raise CheckpointError(
                f"{file} is no head of width {width} ({error})", remedy="train it anew"
            ) from error
        return head

    @classmethod
    def _like(cls, tensors: Mapping[str, Tensor], width: int) -> Self:
        return cls(width)


class RewardHead(ScalarHead):
    """One number from a text's last hidden vector and, with `likelihood`, from its answer's log-probabilities.

    10 (w h + b + u mean + v least), with u = 1/10 and v = 0 at first: beside what the hidden vector says, a text is worth what
    its tokens are worth to the starting model.
    """

    def __init__(
        self, width: int, *, generator: torch.Generator | None = None, likelihood: bool = False
    ) -> None:
        super().__init__(width, generator=generator)
        self.likelihood = nn.Parameter(torch.tensor([1 / _GAIN, 0.0])) if likelihood else None

    def of_answers(self, hidden_BD: Tensor, logp_B2: Tensor | None) -> Tensor:
        """Args: logp_B2: mean and least log-probability of each answer's tokens."""
        score_B = self(hidden_BD)
        if self.likelihood is None:
            return score_B
        assert logp_B2 is not None
        return score_B + _GAIN * (logp_B2 @ self.likelihood)

    @classmethod
    def _like(cls, tensors: Mapping[str, Tensor], width: int) -> Self:
        return cls(width, likelihood="likelihood" in tensors)


@dataclass(kw_only=True, slots=True)
class RewardObjective:
    """-log sigmoid(score of the chosen text - score of the rejected one - margin of the pair)."""

    config: AlignConfig
    head: RewardHead
    held_out: Sequence[Pair] = ()

    @property
    def heads(self) -> Mapping[str, nn.Module]:
        return {"reward": self.head}

    def begin_step(self, decoder: Decoder, examples: Sequence[Pair]) -> int:
        return len(examples)

    def loss(self, decoder: Decoder, examples: Sequence[Pair], *, units: int) -> Loss:
        result = self._losses(decoder, examples)
        total = result.losses_P.sum()
        metrics = {
            f"preference.{name}": (float(v.double().sum()), float(len(v)))
            for name, v in result.metrics.items()
        }
        return Loss(total / units, total.detach(), metrics)

    def validate(self, decoder: Decoder, *, stopped: Callable[[], bool]) -> dict[str, float] | None:
        return validate_pairs(self.held_out, self._losses, decoder, self.config, stopped=stopped)

    def _losses(self, decoder: Decoder, pairs: Sequence[Pair]) -> PreferenceLoss:
        score_B = scores(decoder, self.head, [side for pair in pairs for side in pair.sequences])
        margin_P = torch.tensor([pair.margin for pair in pairs])
        return bradley_terry_loss(score_B[::2], score_B[1::2], margin_P=margin_P, centring=self.config.centre)


def scores(decoder: Decoder, head: RewardHead, sequences: Sequence[PackedSequence]) -> Tensor:
    """Read behind the last token of each text [B]; a text is the inputs and its last target, its mask says which is answer.

    A text without an answer has no likelihood: NaN where the head reads one.
    """
    batch = pack([_with_end(sequence) for sequence in sequences])
    hidden_ND, _ = decoder(batch.ids_N, batch.cu_seqlens)
    logp_B2 = None
    if head.likelihood is not None:
        answers = batch.loss_mask_N.nonzero()[:, 0]
        logp_M, _ = linear_logprobs(
            hidden_ND[answers], decoder.head_weight, batch.targets_N[answers], softcap=decoder.config.logit_softcap
        )  # fmt: skip
        lengths_B = torch.tensor([int(sequence.mask.sum()) for sequence in sequences])
        logp_B2 = torch.stack(
            [torch.segment_reduce(logp_M, how, lengths=lengths_B) for how in ("mean", "min")], dim=1
        )
    return head.of_answers(hidden_ND[batch.cu_seqlens[1:].long() - 1], logp_B2)


def _with_end(sequence: PackedSequence) -> PackedSequence:
    """The whole text as input: the last token of an answer says that it ended. Nothing is foretold behind it."""
    ids, targets = np.append(sequence.ids, sequence.targets[-1]), np.append(sequence.targets, 0)
    return PackedSequence(ids, targets, np.append(sequence.mask, False), sequence.name)


class RewardModel:
    """Scores texts with a directory that `hanok align reward` wrote.

    Raises:
        CheckpointError: no head beside the weights.
    """

    def __init__(self, directory: Path) -> None:
        if not (directory / HEAD).is_file():
            raise CheckpointError(
                f"{directory} has no {HEAD}", remedy="give the model/ of a run of `hanok align reward`"
            )
        self.tokenizer = Tokenizer.load(directory)
        self.decoder = load_model(directory).requires_grad_(False)
        self.head = RewardHead.load(directory / HEAD, self.decoder.config.hidden_size).requires_grad_(False)

    def text(self, prompt: Sequence[Mapping[str, Any]], answer: Mapping[str, Any]) -> PackedSequence:
        """A conversation and the assistant's message behind it, by the model's chat template."""
        ids = prompt_ids(self.tokenizer, prompt)
        return joined(ids, *answer_ids(self.tokenizer, ids, prompt, [answer]), "")

    @torch.no_grad()
    def score(self, texts: Sequence[PackedSequence], *, max_tokens: int = 8192) -> list[float]:
        found: list[float] = []
        for group in micro_batches(texts, max_tokens=max_tokens):
            found += scores(self.decoder, self.head, group).tolist()
        return found
