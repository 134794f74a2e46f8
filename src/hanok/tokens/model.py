"""What `tokenizer.json` holds: pieces as bytes, added tokens, and encoders that know no control tokens.

Two kinds of BPE are read: over bytes (GPT-2's alphabet: Llama 3, Qwen, OLMo, ours) and over characters with U+2581 for a
space and `<0xNN>` for other bytes (SentencePiece's: Llama 2, Mistral, Gemma, Phi-3).
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import tokenizers
import tokenizers.models

from hanok.errors import ArtefactError
from hanok.tokens.pieces import Pieces, byte_of_character
from hanok.tokens.template import Run

_SPACE = "\u2581"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_BRACKETED = re.compile(r"[<\[\uff5c].*[>\]\uff5c]", re.DOTALL)
_ALPHABET = "use a tokeniser whose BPE is over bytes or falls back on them"


@dataclass(frozen=True, slots=True)
class AddedToken:
    """`strips_left`, `strips_right`: white space beside it in a rendered chat is dropped."""

    name: str
    id: int
    strips_left: bool
    strips_right: bool


@dataclass(frozen=True)
class Vocabulary:
    """Args:
    control: tokens that only a template writes. pieces: raw bytes by id (a control token: its name).
    strips_space: a decoded text loses one space at its start, which encoding put there.
    """

    control: Mapping[str, AddedToken]
    pieces: Pieces
    strips_space: bool

    def stripped(self, runs: Sequence[Run]) -> Sequence[Run]:
        """Without the white space that control tokens swallow."""
        if not self._greedy:
            return runs
        found: list[Run] = []
        for place, run in enumerate(runs):
            if run.control:
                found.append(run)
                continue
            text = run.text
            before, after = runs[place - 1 : place], runs[place + 1 : place + 2]
            if place and before[0].control and self.control[before[0].text].strips_right:
                text = text.lstrip()
            if after and after[0].control and self.control[after[0].text].strips_left:
                text = text.rstrip()
            if text:
                whole = ((0, len(text.encode())),)
                found.append(run if text == run.text else dataclasses.replace(
                    run, text=text, trained=whole if run.trained else ()
                ))  # fmt: skip
        return found

    @cached_property
    def _greedy(self) -> bool:
        return any(token.strips_left or token.strips_right for token in self.control.values())


def read_vocabulary(model: Mapping[str, Any]) -> Vocabulary:
    """Raises ArtefactError where it is neither of the two kinds."""
    bpe = model["model"]
    if bpe.get("type") != "BPE":
        raise ArtefactError(f"tokenizer.json is of type {bpe.get('type')}", remedy=_ALPHABET)
    control = {
        token["content"]: AddedToken(token["content"], token["id"], token["lstrip"], token["rstrip"])
        for token in model["added_tokens"]
        if token["special"] or _BRACKETED.fullmatch(token["content"])
    }
    others = {
        token["content"]: token["id"] for token in model["added_tokens"] if token["content"] not in control
    }
    parts = _parts(model.get("decoder"))
    over_bytes = "ByteLevel" in {part["type"] for part in parts}
    vocab: dict[str, int] = bpe["vocab"]
    numbers = [*vocab.values(), *(token.id for token in control.values()), *others.values()]
    names = [""] * (1 + max(numbers))
    for name, number in vocab.items():
        names[number] = name
    written = {n: (name if over_bytes else name.replace(_SPACE, " ")).encode() for name, n in others.items()}
    written |= {token.id: name.encode() for name, token in control.items()}
    for number in (*written, *(vocab[name] for name in (*control, *others) if name in vocab)):
        names[number] = ""
    pieces = (_byte_level if over_bytes else _with_fallback)(names).replaced(written, size=len(names))
    strips = any(p["type"] == "Strip" and p.get("start") for p in parts) or any(
        p["type"] == "Metaspace" and p.get("prepend_scheme", "always") != "never" for p in parts
    )
    return Vocabulary(control, pieces, strips)


def content_encoders(
    model: dict[str, Any], control: Collection[str]
) -> tuple[tokenizers.Tokenizer, tokenizers.Tokenizer]:
    """The same tokeniser for content: no control tokens, and no way for BPE to reach their ids. One for a text at the very
    start of a rendering, one for all others.

    Args:
        model: the content of `tokenizer.json`; its vocabulary is taken out, as nothing else takes so much memory.
    """
    bpe = model.pop("model")
    names = set(control) - {bpe.get("unk_token")}
    vocab = bpe.pop("vocab")
    for name in names & vocab.keys():
        del vocab[name]
    merges: list[Any] = [  # pairs, or, in older files, lines of text
        tuple(pair.split(" ") if isinstance(pair, str) else pair)
        for pair in bpe.pop("merges")
        if not (isinstance(pair, str) and pair.startswith("#version"))
    ]
    settings = {key: bpe[key] for key in _SETTINGS if bpe.get(key) is not None}
    core = tokenizers.models.BPE(vocab=vocab, merges=merges, **settings)
    kept = [token for token in model["added_tokens"] if token["content"] not in control]
    rest = model | {
        "model": {"type": "BPE", "vocab": {}, "merges": []}, "added_tokens": [], "post_processor": None,
        "truncation": None, "padding": None,
    }  # fmt: skip
    later = _without_first_space(rest)
    first = _encoder(rest, core, kept)
    return first, first if later == rest else _encoder(later, core, kept)


_SETTINGS = (
    "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges",
)  # fmt: skip


def _encoder(
    rest: Mapping[str, Any], core: tokenizers.models.BPE, added: Sequence[Mapping[str, Any]]
) -> tokenizers.Tokenizer:
    encoder = tokenizers.Tokenizer.from_str(json.dumps(rest))
    encoder.model = core  # shared, not copied
    encoder.add_tokens([
        tokenizers.AddedToken(**{key: value for key, value in token.items() if key != "id"}) for token in added
    ])  # fmt: skip
    return encoder


def _byte_level(names: Sequence[str]) -> Pieces:
    """A character is a byte; what is none has no place in Latin-1."""
    try:
        return Pieces("".join(names).translate(_LATIN).encode("latin-1"), [len(name) for name in names])
    except UnicodeEncodeError as error:
        wrong = next(name for name in names if any(_LATIN.get(ord(c), 256) > 255 for c in name))
        raise ArtefactError(
            f"tokenizer.json: token {wrong!r} is not in the byte-level alphabet", remedy=_ALPHABET
        ) from error


_LATIN = dict.fromkeys(range(256), 0xFFFF) | {ord(c): byte for c, byte in byte_of_character().items()}


def _with_fallback(names: Sequence[str]) -> Pieces:
    pieces = [_fallback(name) for name in names]
    return Pieces(b"".join(pieces), [len(piece) for piece in pieces])


def _fallback(name: str) -> bytes:
    match = _BYTE.fullmatch(name)
    return bytes([int(match[1], 16)]) if match else name.replace(_SPACE, " ").encode()


def _parts(value: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The steps of a decoder, normaliser or pre-tokeniser, sequences opened."""
    if value is None:
        return []
    inner = next((value[key] for key in ("decoders", "pretokenizers", "normalizers") if key in value), None)
    return [value] if inner is None else [part for one in inner for part in _parts(one)]


def _without_first_space(model: dict[str, Any]) -> dict[str, Any]:
    """Where only the first text of all gets a space put before it: the tokeniser of those that follow."""

    def changed(value: Any) -> Any:
        if isinstance(value, list):
            return [changed(item) for item in value]
        if not isinstance(value, dict):
            return value
        if value.get("type") == "Metaspace" and value.get("prepend_scheme") == "first":
            return value | {"prepend_scheme": "never"}
        return {key: changed(item) for key, item in value.items()}

    return model | {"pre_tokenizer": changed(model.get("pre_tokenizer"))}
