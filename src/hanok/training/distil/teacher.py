"""The teacher: a model directory that is read and never written, of the student's tokeniser and vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hanok.errors import ConfigError
from hanok.models.checkpoint import load_config, load_model
from hanok.models.decoder import Decoder
from hanok.tokens.tokenizer import Tokenizer
from hanok.training.packing import RaggedBatch


@dataclass(frozen=True, slots=True)
class Teacher:
    """Args: decoder: in evaluation mode, without gradients, mapped from its files."""

    decoder: Decoder

    @classmethod
    def load(cls, directory: Path, *, dtype: torch.dtype) -> Teacher:
        decoder = load_model(directory, dtype="stored").requires_grad_(False).eval()
        decoder.set_compute_dtype(dtype)
        return cls(decoder)

    @torch.no_grad()
    def hidden(self, batch: RaggedBatch, rows: Tensor) -> Tensor:
        """What the head reads at some rows of a batch [M, D]."""
        return self.decoder(batch.ids_N, batch.cu_seqlens)[0].index_select(0, rows)


def require_one_vocabulary(teacher: Path, student: Path) -> None:
    """Raises ConfigError: the two do not speak the same tokens."""
    hashes = [Tokenizer.load(directory).hash for directory in (teacher, student)]
    if hashes[0] != hashes[1]:
        raise ConfigError(
            f"teacher {teacher} has tokeniser {hashes[0][:12]}, student {student} has {hashes[1][:12]}",
            remedy="their laws are over different tokens: give models with one tokeniser, or let the teacher's shape make a "
            "new student",
        )
    sizes = [load_config(directory).vocab_size for directory in (teacher, student)]
    if sizes[0] != sizes[1]:
        raise ConfigError(
            f"teacher {teacher} knows {sizes[0]} tokens, student {student} {sizes[1]}",
            remedy="give a student with as many rows in its head, or let the teacher's shape make a new one",
        )
