"""Log-probabilities of all answers under the starting model, measured once and kept in the stage's directory.

out/reference/   reference.safetensors: one [rows, 2] tensor for each of `train` and `validation`; artefact.json names
                 the model and the data that it belongs to, and the hash of the file
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file, save_file

from hanok.artefacts import Artefact, create_artefact, open_artefact
from hanok.errors import ArtefactError
from hanok.models.decoder import Decoder
from hanok.reporting import progress
from hanok.training.align.examples import Judged, Pair
from hanok.training.align.scoring import summed_logprobs
from hanok.training.checkpoint import disk_full_is_resumable

Row = TypeVar("Row", Pair, Judged)
_FILE = "reference.safetensors"


def with_reference(
    rows: Mapping[str, Sequence[Row]], decoder: Decoder, out: Path, *, identity: Mapping[str, str],
    parents: Mapping[str, Artefact], dtype: torch.dtype, max_tokens: int,
) -> dict[str, list[Row]]:  # fmt: skip
    """The rows with what `decoder` gives their answers, or what an earlier start of this run measured.

    Args:
        decoder: the starting model, before its first update.
        identity: hashes of model, data and settings that the numbers belong to.

    Raises:
        ArtefactError: the directory is damaged, or of another model or other data.
    """
    directory = out / "reference"
    if not directory.exists():
        _measure(
            rows, decoder, directory, identity=identity, parents=parents, dtype=dtype, max_tokens=max_tokens
        )
    artefact = open_artefact(directory, kind="reference")
    if dict(artefact.step) != dict(identity):
        raise ArtefactError(
            f"{directory} belongs to another model or other data",
            remedy=f"delete {directory} to measure it anew",
        )
    tensors = load_file(directory / _FILE)
    found = {}
    for name, part in rows.items():
        assert len(tensors[name]) == len(part), name
        found[name] = [
            dataclasses.replace(row, reference=(float(a), float(b)))
            for row, (a, b) in zip(part, tensors[name].tolist(), strict=True)
        ]
    return found


def _measure(
    rows: Mapping[str, Sequence[Row]], decoder: Decoder, directory: Path, *, identity: Mapping[str, str],
    parents: Mapping[str, Artefact], dtype: torch.dtype, max_tokens: int,
) -> None:  # fmt: skip
    tensors = {}
    total = sum(side.num_tokens for part in rows.values() for row in part for side in row.sequences)
    with progress("reference", total, "tokens") as bar:
        for name, part in rows.items():
            sides = [side for row in part for side in row.sequences]
            logp = summed_logprobs(decoder, sides, dtype=dtype, max_tokens=max_tokens, told=bar.advance)
            tensors[name] = torch.tensor(logp, dtype=torch.float32).reshape(-1, 2)
    with (
        disk_full_is_resumable(directory),
        create_artefact(directory, kind="reference", parents=parents, step=dict(identity)) as draft,
    ):
        save_file(tensors, draft.path / _FILE)
