"""Which tokens may come next, so that an answer has the structure that its request asks for.

`llguidance` compiles a grammar and computes a mask over the vocabulary for each token. What it knows of the tokeniser is
bytes by id, the same that decode answers; control tokens fit no grammar (but those of a forced tool call), and stop ids
come where the grammar may end, and nowhere else.

A mask over 150,000 tokens takes tens of microseconds, about as much as handing the work to another thread would; so it is
computed where it is needed. The work of one token is bounded by the library's limits; a grammar that hits them ends its request.

V vocabulary, W = ceil(V / 32) words of a mask.
"""

from __future__ import annotations

import importlib
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hanok.engine.api import Structure
from hanok.engine.lark import lark_of
from hanok.errors import StructureError
from hanok.tokens.control import TOOL_CALL, TOOL_CALL_END
from hanok.tokens.tokenizer import Tokenizer

KEPT = 128  # compiled grammars of one engine

Mask = NDArray[np.uint32]


class Grammars:
    """The compiled grammars of one tokeniser. Any thread may call.

    Args:
        vocabulary: V; ids from here on are never chosen.
    """

    def __init__(self, tokenizer: Tokenizer, *, vocabulary: int) -> None:
        self._tokenizer, self._vocabulary = tokenizer, vocabulary
        self._lock = threading.Lock()
        self._vocab: _Vocabulary | None = None
        self._compiled: OrderedDict[Structure, Any] = OrderedDict()

    def check(self, structure: Structure) -> None:
        """Raises StructureError if no answer can be held to it."""
        self._compile(structure)

    def matcher(self, structure: Structure, ends: Collection[int]) -> Matcher:
        """For one answer.

        Args:
            ends: ids that end the answer.
        """
        compiled = self._compile(structure)
        assert self._vocab is not None
        special = self._tokenizer.special
        never = {*special.values(), *ends}
        if structure.kind == "tool_calls":
            never -= {special[TOOL_CALL], special[TOOL_CALL_END]}
        return Matcher(compiled.deep_copy(), self._vocab, never, ends)

    def _compile(self, structure: Structure) -> Any:
        with self._lock:
            if structure in self._compiled:
                self._compiled.move_to_end(structure)
                return self._compiled[structure]
            if self._vocab is None:
                self._vocab = _Vocabulary(self._tokenizer, self._vocabulary)
            vocab = self._vocab
        compiled = self._new(structure, vocab)  # outside of the lock: a large grammar takes its time
        with self._lock:
            self._compiled[structure] = compiled
            while len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
        return compiled

    def _new(self, structure: Structure, vocab: _Vocabulary) -> Any:
        library = importlib.import_module("llguidance")
        grammar = library.LLMatcher.grammar_from_lark(lark_of(structure, self._tokenizer.special))
        limits = library.LLParserLimits(verbose_errors=False)
        compiled = library.LLMatcher(vocab.tokens, grammar, log_level=0, limits=limits)
        if compiled.is_error():
            raise StructureError(f"{structure.kind}: {_reason(compiled)}", remedy="mend it")
        if Matcher(compiled.deep_copy(), vocab, (), ()).complete:
            raise StructureError(f"{structure.kind}: no text but the empty one fits it", remedy="mend it")
        return compiled


class _Vocabulary:
    """What the library knows of a tokeniser, and which pieces stand for others at the beginning of a text.

    Where decoding drops a first space, " {" at the beginning is read as "{".
    """

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        library = importlib.import_module("llguidance")
        self.size = size
        pieces = [tokenizer.token_bytes(token) for token in range(size)]
        special = sorted(token for token in tokenizer.special.values() if token < size)
        self.tokens = library.LLTokenizer(
            library.TokenizerWrapper(_Pieces(tokenizer, pieces, special)), n_vocab=size, eos_token=tokenizer.stop_ids[0]
        )  # fmt: skip
        # the end of an answer is not the library's business, control tokens are as far as a grammar names them
        self.text_W = ~_mask((tokenizer.stop_ids[0],), size)
        self.first: Mapping[int, int] = {}
        if tokenizer.drops_first_space:
            control, by_piece = set(special), {piece: n for n, piece in enumerate(pieces) if piece}
            self.first = {
                n: by_piece.get(piece[1:], -1)
                for n, piece in enumerate(pieces)
                if piece.startswith(b" ") and n not in control
            }


class _Pieces:
    """The form in which the library takes a tokeniser. It encodes text only to force tokens, which is switched off."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, pieces: list[bytes], special: list[int]) -> None:
        self.tokens, self.special_token_ids, self.eos_token_id = pieces, special, tokenizer.stop_ids[0]
        self._tokenizer = tokenizer

    def __call__(self, text: bytes | str) -> list[int]:
        return self._tokenizer.encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))


class Matcher:
    """Where one answer stands in its grammar. Of the engine's thread alone.

    Args:
        never: ids that fit nowhere. ends: ids that end the answer.
    """

    def __init__(self, state: Any, vocab: _Vocabulary, never: Collection[int], ends: Collection[int]) -> None:
        self._state, self._vocab = state, vocab
        self._possible_W = ~_mask(never, vocab.size)
        self._ends_W = _mask(ends, vocab.size)
        self._begun = False
        self._fitting_W = self._fitting()

    @property
    def complete(self) -> bool:
        """Whether the structure is whole and nothing more may come."""
        return not self._fitting_W.any()

    def allowed(self, *, may_end: bool) -> Mask:
        """[W]: bit i % 32 of word i // 32 says whether token i may come.

        Args:
            may_end: False while the answer is too short for its request.

        Raises:
            StructureError: none may.
        """
        allowed_W = self._fitting_W & self._possible_W
        if may_end and self._state.is_accepting():
            allowed_W |= self._ends_W
        if not allowed_W.any():
            raise StructureError(
                "no token is left that the structure, min_tokens and stop ids all allow",
                remedy="relax one",
            )
        return allowed_W

    def advance(self, token: int) -> bool:
        """Take a token that was allowed; whether the structure is complete with it.

        Raises:
            StructureError: the grammar costs too much from here on.
        """
        self._state.consume_token(token if self._begun else self._vocab.first.get(token, token))
        self._begun = True
        self._fitting_W = self._fitting()
        return self.complete

    def _fitting(self) -> Mask:
        """[W]: the ids of text that the grammar takes next; none only where it may end."""
        fitting_W = np.zeros(-(-self._vocab.size // 32), dtype=np.uint32)
        if not self._state.is_stopped():
            self._state.unsafe_compute_mask_ptr(fitting_W.ctypes.data, fitting_W.nbytes)
        if self._state.is_error():
            raise StructureError(
                f"the structure costs too much: {_reason(self._state)}", remedy="make it simpler"
            )
        fitting_W &= self._vocab.text_W
        if not (fitting_W.any() or self._state.is_accepting()):
            raise StructureError("the structure cannot be completed", remedy="mend it")
        if self._begun or not self._vocab.first:
            return fitting_W
        bits_V = np.unpackbits(fitting_W.view(np.uint8), bitorder="little")
        spaced, bare = np.array(list(self._vocab.first.items())).T
        bits_V[spaced] = np.where(bare >= 0, bits_V[bare], 0)
        return np.packbits(bits_V, bitorder="little").view(np.uint32)


def _reason(state: Any) -> str:
    """What the library says, without the place in a grammar that its user has not written."""
    lines = state.get_error().strip().splitlines()
    head, colon, rest = lines[0].removeprefix("Parser Error: ").partition(": ")
    said = rest if colon and head.startswith("at ") else head + colon + rest
    causes = [line.removeprefix("error: ") for line in lines[1:] if line.startswith("error: ")]
    return ": ".join([said.removeprefix("failed to compile JSON schema: ").rstrip(":")[:300], *causes[:1]])


def _mask(ids: Collection[int], size: int) -> Mask:
    mask_W = np.zeros(-(-size // 32), dtype=np.uint32)
    for token in ids:
        if 0 <= token < size:
            mask_W[token // 32] |= np.uint32(1 << token % 32)
    return mask_W
