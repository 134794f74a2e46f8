"""The chunkwise-parallel form in plain PyTorch, safe for any gate (Kimi Linear, section 3.2 and appendix C).

Within a chunk of C tokens, G_i = sum of g up to i. Every exponent that is evaluated is <= 0: a difference G_i - G_j
with j <= i directly on the diagonal blocks, and through a reference between the blocks elsewhere (exp(-G) overflows).

M chunks (of all sequences), C chunk, S sub-block, H heads, K key width, V value width.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 64
BLOCK = 16


def chunked_kda(
    q_NHK: Tensor, k_NHK: Tensor, v_NHV: Tensor, g_NHK: Tensor, beta_NH: Tensor,
    *, cu_seqlens: Tensor, scale: float | None = None,
    initial_state_BHKV: Tensor | None = None, output_final_state: bool = False,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Differentiable by autograd; see `hanok.kernels.kda.chunk_kda` for shapes."""
    factor = q_NHK.shape[-1] ** -0.5 if scale is None else scale
    heads, key, value = q_NHK.shape[1], q_NHK.shape[2], v_NHV.shape[2]
    lengths = (cu_seqlens[1:] - cu_seqlens[:-1]).tolist()
    chunks = [-(-length // CHUNK) for length in lengths]
    slots_N, first_chunk = _slots(lengths, chunks, q_NHK.device)
    total = sum(chunks)

    def into_chunks(x: Tensor) -> Tensor:
        """[N, H, *] to [M, H, C, *], zeros behind the end of a sequence (g = 0, beta = 0: an exact no-op)."""
        padded = x.new_zeros(total * CHUNK, *x.shape[1:], dtype=torch.float32)
        padded = padded.index_copy(0, slots_N, x.float())
        return padded.view(total, CHUNK, *x.shape[1:]).transpose(1, 2)

    q, k, v, g, beta = map(into_chunks, (q_NHK, k_NHK, v_NHV, g_NHK, beta_NH))
    q = q * factor
    gate = g.double().cumsum(2).float()
    a_kk, a_qk = _decayed_products(q, k, gate)
    system = torch.eye(CHUNK, device=q.device) + beta[..., None] * a_kk
    decayed_k = k * gate.exp()
    right = beta[..., None] * torch.cat([decayed_k, v], dim=-1)
    w, u = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True).split(
        [key, value], dim=-1
    )
    decayed_q = q * gate.exp()
    last = gate[:, :, -1:, :]
    k_to_end = k * (last - gate).exp()
    decay_MHK = last.squeeze(2).exp()

    batch = len(lengths)
    state = q.new_zeros(batch, heads, key, value)
    if initial_state_BHKV is not None:
        state = initial_state_BHKV.float()
    order = sorted(range(batch), key=lambda b: -chunks[b])
    output = q.new_zeros(total, heads, CHUNK, value)
    states = list(state.unbind(0))
    for step in range(max(chunks, default=0)):
        active = [b for b in order if chunks[b] > step]
        m = torch.tensor([first_chunk[b] + step for b in active], device=q.device)
        before = torch.stack([states[b] for b in active])
        pseudo = u[m] - w[m] @ before
        output = output.index_copy(0, m, decayed_q[m] @ before + a_qk[m] @ pseudo)
        after = before * decay_MHK[m][..., None] + k_to_end[m].transpose(-1, -2) @ pseudo
        for i, b in enumerate(active):
            states[b] = after[i]
    o_NHV = output.transpose(1, 2).reshape(total * CHUNK, heads, value)[slots_N]
    return o_NHV.to(v_NHV.dtype), torch.stack(states) if output_final_state else None


def _slots(lengths: list[int], chunks: list[int], device: torch.device) -> tuple[Tensor, list[int]]:
    """Where each token lies in the padded layout, and each sequence's first chunk."""
    first, parts, total = [], [], 0
    for length, count in zip(lengths, chunks, strict=True):
        first.append(total)
        parts.append(torch.arange(length, device=device) + total * CHUNK)
        total += count
    return (torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long, device=device)), first


def _decayed_products(q: Tensor, k: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    """sum_d x_id k_jd exp(G_id - G_jd): strictly lower for x = k, lower with the diagonal for x = q."""
    blocks = CHUNK // BLOCK
    rows_k, rows_q = [], []
    above = torch.ones(BLOCK, BLOCK, dtype=torch.bool, device=q.device).triu(1)
    for i in range(blocks):
        rows = slice(i * BLOCK, (i + 1) * BLOCK)
        g_i, k_i, q_i = gate[:, :, rows], k[:, :, rows], q[:, :, rows]
        difference = g_i[:, :, :, None] - g_i[:, :, None]
        difference = difference.masked_fill(above[:, :, None], float("-inf")).exp() * k_i[:, :, None]
        diagonal_k = torch.einsum("mhik,mhijk->mhij", k_i, difference).tril(-1)
        diagonal_q = torch.einsum("mhik,mhijk->mhij", q_i, difference)
        parts_k, parts_q = [diagonal_k], [diagonal_q]
        if i:
            reference = gate[:, :, i * BLOCK - 1 : i * BLOCK]
            left = (g_i - reference).exp()
            right = (k[:, :, : i * BLOCK] * (reference - gate[:, :, : i * BLOCK]).exp()).transpose(-1, -2)
            parts_k.insert(0, (k_i * left) @ right)
            parts_q.insert(0, (q_i * left) @ right)
        if rest := CHUNK - (i + 1) * BLOCK:
            zeros = diagonal_k.new_zeros(*diagonal_k.shape[:-1], rest)
            parts_k.append(zeros)
            parts_q.append(zeros)
        rows_k.append(torch.cat(parts_k, dim=-1))
        rows_q.append(torch.cat(parts_q, dim=-1))
    return torch.cat(rows_k, dim=-2), torch.cat(rows_q, dim=-2)
