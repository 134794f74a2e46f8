"""A keyed statistical watermark (Kirchenbauer et al., "A Watermark for Large Language Models", arXiv 2301.10226, algorithm 2).

A secret key and the `width` tokens before a place colour the share `gamma` of the vocabulary green there; the sampler adds
`delta` to the logits of green tokens, and whoever has the key counts them. Three choices beyond the paper:

* The colours are a block cipher's: token v behind the context c has the colour of bit field v of AES(H(c) || 0),
  AES(H(c) || 1), ... with a keyed H. So no colour of one context tells of another's, a step costs the cipher of a few KiB,
  and a detector computes the one block that it needs.
* A context counts once (Fernandez et al., "Three Bricks to Consolidate Watermarks", arXiv 2308.00113): only its first token in
  a text is steered, and only that one is tested. Colours of different contexts are independent, which makes the binomial
  test exact, and a phrase that repeats is not pushed into repeating again.
* The token itself is no part of the context (no "self-salt"): colours are then one cipher stream a place, and what that hides,
  the colours behind one context, is not shown by an API whose log-probabilities are those from before the mark.

V vocabulary, N places.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from hanok.errors import ConfigError

WIDTHS = range(1, 9)
_BLOCK = 16  # bytes that the cipher gives at a time
_KEY_BYTES = 32

Context = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Watermark:
    """Args:
    key: 32 secret bytes. key_id: what the key is called in public.
    gamma: share of the vocabulary that is green, in sixteenths. delta: nats added to its logits. width: tokens of a context.
    """

    key: bytes = field(repr=False)
    key_id: str = ""
    gamma: float = 0.25
    delta: float = 2.0
    width: int = 2

    def __post_init__(self) -> None:
        rules = (
            ("key", len(self.key) == _KEY_BYTES, f"{_KEY_BYTES} bytes"),
            ("gamma", self.gamma * 16 in range(1, 16), "1/16, 2/16, ... or 15/16"),
            ("delta", 0.0 < self.delta <= 20.0, "above 0 and at most 20"),
            ("width", self.width in WIDTHS, f"from {WIDTHS[0]} to {WIDTHS[-1]}"),
        )
        for name, holds, rule in rules:
            if not holds:
                value = "" if name == "key" else f" = {getattr(self, name)!r}"
                raise ConfigError(f"watermark: {name}{value}", remedy=f"it must be {rule}")

    @property
    def colours(self) -> Colours:
        """Of its key; made once."""
        return _colours(self.key, self.gamma)


class Colours:
    """Which tokens are green behind which context. Safe to call from several threads."""

    def __init__(self, key: bytes, gamma: float) -> None:
        self._bits = next(bits for bits in (1, 2, 4) if (gamma * 2**bits).is_integer())
        self._green = int(gamma * 2**self._bits)  # fields below it are green
        self._context_key = _derived(key, b"context")
        self._cipher = algorithms.AES(_derived(key, b"colours")[:16])
        fields = (np.arange(256)[:, None] >> (self._bits * np.arange(8 // self._bits))) & (2**self._bits - 1)
        self._is_green = (fields < self._green).astype(np.float32)  # [256, fields of a byte]

    def weights(self, context: Context, vocabulary: int) -> NDArray[np.float32]:
        """[V]: 1 for green tokens, 0 for others."""
        size = -(-vocabulary * self._bits // 8)
        nonce = self._hash(context) + bytes(8)
        stream = Cipher(self._cipher, modes.CTR(nonce)).encryptor().update(bytes(size))
        return self._is_green.take(np.frombuffer(stream, dtype=np.uint8), axis=0).reshape(-1)[:vocabulary]

    def are_green(self, contexts: Sequence[Context], tokens: Sequence[int]) -> NDArray[np.bool_]:
        """[N], of a token each behind its context."""
        if not tokens:
            return np.zeros(0, dtype=bool)
        bits_N = np.asarray(tokens, dtype=np.int64) * self._bits
        block_N, place_N = np.divmod(bits_N // 8, _BLOCK)
        plain = b"".join(
            self._hash(context) + struct.pack(">Q", block)
            for context, block in zip(contexts, block_N.tolist(), strict=True)
        )
        stream = Cipher(self._cipher, modes.ECB()).encryptor().update(plain)
        bytes_N = np.frombuffer(stream, dtype=np.uint8).reshape(-1, _BLOCK)[np.arange(len(tokens)), place_N]
        return (bytes_N >> (bits_N % 8)) & (2**self._bits - 1) < self._green

    def _hash(self, context: Context) -> bytes:
        packed = struct.pack(f"<{len(context)}I", *context)
        return hashlib.blake2b(packed, key=self._context_key, digest_size=8).digest()


@lru_cache(maxsize=64)
def _colours(key: bytes, gamma: float) -> Colours:
    return Colours(key, gamma)


def _derived(key: bytes, use: bytes) -> bytes:
    return hashlib.blake2b(use, key=key, digest_size=32, person=b"hanok-watermark").digest()
