"""A probe: logistic regression over the hidden vectors of one model, which has read the text and knows more than its letters.

Of every chosen layer it takes the mean over the tokens and the last one. It belongs to the weights that it was trained with:
their hash is in its file, and vectors of another model are refused. The guard runs no model; who has one hands vectors over.

    T texts    L layers    D model width    N tokens of one text
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from hanok.errors import InputError
from hanok.guard.grams import FORMAT, check_format


class Vectors(Protocol):
    """The served model's. `model`: the hash of its weights."""

    @property
    def model(self) -> str: ...

    def of(self, texts: Sequence[str], layers: Sequence[int]) -> np.ndarray:
        """[T, L, 2, D] float32: as `pooled` makes them. -1: behind the final norm."""
        ...


def pooled(hidden_ND: np.ndarray) -> np.ndarray:
    """[2, D]: the mean over the tokens, and the last."""
    return np.stack([hidden_ND.mean(0), hidden_ND[-1]])


@dataclass(frozen=True)
class Probe:
    """`weights_L2D`: float32. `model`: hash of the model whose vectors it judges. `threshold`: what counts as a hit. `band`:
    scores of the first stage (`hanok.guard.linear`) between which it is asked. `mix`: what the first stage's score and its own
    count for there."""

    name: str
    weights_L2D: np.ndarray
    bias: float
    layers: tuple[int, ...]
    model: str
    threshold: float = 0.0
    band: tuple[float, float] = (-1.0, 3.0)
    mix: tuple[float, float] = (0.0, 1.0)

    def scores(self, vectors_TL2D: np.ndarray) -> np.ndarray:
        """[T] float64: 0 is an even chance among the (balanced) rows of its training."""
        return np.einsum("tlpd,lpd->t", vectors_TL2D.astype(np.float64), self.weights_L2D) + self.bias

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        about = {
            "name": self.name, "bias": self.bias, "layers": self.layers, "model": self.model, "threshold": self.threshold,
            "band": self.band, "mix": self.mix,
        }  # fmt: skip
        save_file(
            {"weights": self.weights_L2D.astype(np.float32)},
            directory / f"{self.name}.safetensors",
            metadata={"format": str(FORMAT), "probe": json.dumps(about)},
        )

    @classmethod
    def load(cls, file: Path) -> Probe:
        """Raises InputError if it is no probe, or one of another format."""
        try:
            with safe_open(file, "numpy") as opened:
                metadata = opened.metadata() or {}
            about = json.loads(metadata["probe"])
            check_format(file, metadata)  # its band and its mixture are of the first stage's scores
            weights, layers = load_file(file)["weights"], tuple(map(int, about["layers"]))
            low, high = map(float, about["band"])
            first, own = map(float, about["mix"])
            if weights.ndim != 3 or weights.shape[:2] != (len(layers), 2) or not np.isfinite(weights).all():
                raise InputError(
                    f"{file} has weights of shape {weights.shape} for {len(layers)} layers", remedy=_REMEDY
                )
            return cls(
                str(about["name"]), weights, float(about["bias"]), layers, str(about["model"]), float(about["threshold"]),
                (low, high), (first, own),
            )  # fmt: skip
        except (OSError, KeyError, ValueError, TypeError, SafetensorError) as error:
            raise InputError(f"{file} is no probe ({error})", remedy=_REMEDY) from error


_REMEDY = "hanok guard train-probe writes one"


def train_probe(
    name: str, vectors_TL2D: np.ndarray, labels: Sequence[int], *, layers: Sequence[int], model: str, penalty: float = 1e-2
) -> Probe:  # fmt: skip
    """Solved to its optimum, with balanced classes and an L2 penalty on weights of standardised vectors.

    Raises:
        InputError: one of the classes is missing.
    """
    import torch

    wanted_T = np.asarray(labels, dtype=np.float64)
    if not 0 < wanted_T.sum() < len(wanted_T):
        raise InputError("all rows have the same label", remedy="a probe needs rows of both kinds")
    flat_TF = vectors_TL2D.reshape(len(vectors_TL2D), -1).astype(np.float64)
    mean_F, scale_F = flat_TF.mean(0), flat_TF.std(0)
    scale_F[scale_F < 1e-6] = 1.0
    features_TF, target_T = torch.from_numpy((flat_TF - mean_F) / scale_F), torch.from_numpy(wanted_T)
    share = wanted_T.mean()
    balance_T = torch.from_numpy(np.where(wanted_T == 1, 0.5 / share, 0.5 / (1 - share)))
    weights_F = torch.zeros(features_TF.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([weights_F, bias], max_iter=100, history_size=8, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        each_T = torch.nn.functional.binary_cross_entropy_with_logits(
            features_TF @ weights_F + bias, target_T, reduction="none"
        )
        total = (each_T * balance_T).mean() + penalty * weights_F.square().sum()
        total.backward()
        return total

    solver.step(loss)
    raw_F = weights_F.detach().numpy() / scale_F  # standardisation is part of the weights
    return Probe(
        name, raw_F.reshape(vectors_TL2D.shape[1:]).astype(np.float32), float(bias.detach()) - float(raw_F @ mean_F),
        tuple(layers), model,
    )  # fmt: skip
