"""Rotations that spread outliers over all channels (QuaRot, arXiv 2404.00456), by random Hadamard matrices.

For rows x of the residual stream and an orthogonal R: x' = x R. Maps that read x become W R, maps that write it R^T W, rows of
the embedding e R; RMSNorm commutes with R once its weight is folded into its readers. LayerNorm takes a mean away and does
not commute: such a model has to be brought into the mean-free form first.

Orders: q + 1 for primes q = 3 mod 4 (Paley I), 2 (q + 1) for primes q = 1 mod 4 (Paley II), and any of these, or 1, times a power
of two. N outputs, K inputs, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hanok.errors import ConfigError


def hadamard(order: int) -> Tensor:
    """float64 of +1 and -1 with orthogonal rows. Raises ConfigError: an order that is not built here."""
    core, doublings = order, 0
    while core > 0 and core & (core - 1) and core % 2 == 0 and _paley(core) is None:
        core, doublings = core // 2, doublings + 1
    if core > 0 and not core & (core - 1):
        core, doublings = 1, order.bit_length() - 1
    matrix = torch.ones(1, 1, dtype=torch.float64) if core == 1 else _paley(core)
    if matrix is None:
        raise ConfigError(
            f"no Hadamard matrix of order {order} is built here",
            remedy="choose a width that is 1, 12, 20, 28, 36, 44 or 60 times a power of two",
        )
    for _ in range(doublings):
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


def random_rotation(order: int, generator: torch.Generator) -> Tensor:
    """Orthogonal float64 [D, D]: a Hadamard matrix with rows of random sign. Raises as `hadamard`."""
    sign_D = 2.0 * torch.randint(0, 2, (order,), generator=generator, dtype=torch.float64) - 1
    return sign_D[:, None] * hadamard(order) / order**0.5


def fold_norm(reader_NK: Tensor, norm_K: Tensor) -> Tensor:
    """The reader of a norm whose own weight is set to 1."""
    return reader_NK * norm_K


def rotate_reader(weight_NK: Tensor, rotation_KK: Tensor) -> Tensor:
    """Of a map, or an embedding, whose inputs (rows) are turned."""
    return weight_NK @ rotation_KK


def rotate_writer(weight_NK: Tensor, rotation_NN: Tensor) -> Tensor:
    """Of a map whose outputs are turned."""
    return rotation_NN.T @ weight_NK


def _paley(order: int) -> Tensor | None:
    """Paley's matrices; None where no prime gives this order."""
    q = order - 1
    if q % 4 == 3 and _is_prime(q):
        inner = _border(_residues(q), -1)
        return inner + torch.eye(order, dtype=torch.float64)
    q = order // 2 - 1
    if order % 4 == 0 and q % 4 == 1 and _is_prime(q):
        inner, eye = _border(_residues(q), 1), torch.eye(q + 1, dtype=torch.float64)
        plus = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
        minus = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
        return torch.kron(inner, plus) + torch.kron(eye, minus)
    return None


def _residues(q: int) -> Tensor:
    """Jacobsthal: +1 where i - j is a square modulo q, -1 where not, 0 on the diagonal."""
    squares = {x * x % q for x in range(1, q)}
    legendre = torch.tensor([0.0] + [1.0 if x in squares else -1.0 for x in range(1, q)], dtype=torch.float64)
    place = torch.arange(q)
    return legendre[(place[:, None] - place) % q]


def _border(inner: Tensor, sign: int) -> Tensor:
    """One row of ones above, one column of `sign` on the left, 0 in the corner."""
    q = len(inner)
    whole = torch.zeros(q + 1, q + 1, dtype=torch.float64)
    whole[0, 1:], whole[1:, 0], whole[1:, 1:] = 1, sign, inner
    return whole


def _is_prime(q: int) -> bool:
    return q > 1 and all(q % d for d in range(2, int(q**0.5) + 1))
