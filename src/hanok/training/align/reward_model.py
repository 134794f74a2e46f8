"""A reward model: a decoder with one score a text, read at its last token; trained on pairs (Bradley and Terry 1952).

    model/               a model directory like any other
    model/reward_head.safetensors    weight [1, D] and bias [1] of the score

P pairs, B = 2P texts, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hanok.errors import CheckpointError
from hanok.models.checkpoint import load_model
from hanok.models.decoder import Decoder
from hanok.tokens.tokenizer import Tokenizer
from hanok.training.align.config import AlignConfig
from hanok.training.align.examples import Pair
from hanok.training.align.preference import validate_pairs
from hanok.training.objective import Loss
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
        save_file({"weight": _GAIN * self.weight.detach(), "bias": _GAIN * self.bias.detach()}, file)

    @classmethod
    def load(cls, file: Path, width: int) -> ScalarHead:
        """Raises CheckpointError: missing, damaged or of another width."""
        head = cls(width)
        try:
            tensors = load_file(file)
            with torch.no_grad():
                for name, parameter in head.named_parameters():
                    parameter.copy_(tensors[name] / _GAIN)
        except Exception as error:
            raise CheckpointError(
                f"{file} is no head of width {width} ({error})", remedy="train it anew"
            ) from error
        return head


@dataclass(kw_only=True, slots=True)
class RewardObjective:
    """-log sigmoid(score of the chosen text - score of the rejected one)."""

    config: AlignConfig
    head: ScalarHead
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
        return bradley_terry_loss(score_B[::2], score_B[1::2], centring=self.config.centre)


def scores(decoder: Decoder, head: ScalarHead, sequences: Sequence[PackedSequence]) -> Tensor:
    """Read behind the last token of each text [B]; a text is the inputs and its last target."""
    batch = pack([_with_end(sequence) for sequence in sequences])
    hidden_ND, _ = decoder(batch.ids_N, batch.cu_seqlens)
    return head(hidden_ND[batch.cu_seqlens[1:].long() - 1])


def _with_end(sequence: PackedSequence) -> PackedSequence:
    """The whole text as input: the last token of an answer says that it ended."""
    import numpy as np

    ids = np.append(sequence.ids, sequence.targets[-1])
    return PackedSequence(ids, ids, np.zeros(len(ids), dtype=bool), sequence.name)


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
        self.head = ScalarHead.load(directory / HEAD, self.decoder.config.hidden_size).requires_grad_(False)

    @torch.no_grad()
    def score(self, texts: Sequence[Sequence[int]], *, max_tokens: int = 8192) -> list[float]:
        """Of token ids from the separator to the end of the answer's turn."""
        import numpy as np

        sequences = [
            PackedSequence(np.array(ids[:-1]), np.array(ids[1:]), np.ones(len(ids) - 1, dtype=bool), "")
            for ids in texts
        ]
        found: list[float] = []
        for group in micro_batches(sequences, max_tokens=max_tokens):
            found += scores(self.decoder, self.head, group).tolist()
        return found
