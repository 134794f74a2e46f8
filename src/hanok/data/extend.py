"""More tokens for somebody else's tokeniser, learnt from one's own documents: BPE that goes on where theirs ended.

Documents are encoded with the tokeniser as it is; each of its tokens becomes one character, and BPE is trained on words of such
characters. The merges that come out stand behind all of theirs, so text is first encoded as before and then joined further.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from hanok.artefacts import open_artefact
from hanok.data.config_tokens import ExtendConfig
from hanok.data.corpus import iter_tables
from hanok.data.words import SampledTexts, content
from hanok.errors import InputError
from hanok.tokens.tokenizer import Tokenizer

_FIRST = 0x10000  # characters that stand for tokens while BPE trains
_CHARACTERS = 1_000_000  # units from here on are characters that theirs spells in bytes
_LONGEST = 8  # units in one new token
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")

Word = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Extension:
    """The longer tokeniser's files; `pieces[i]`: the old tokens that the i-th new one is made of; `fit`: characters a token
    of the validation part by language, before and after."""

    files: dict[str, str]
    pieces: list[list[int]]
    fit: dict[str, tuple[float, float]]


def extend_tokenizer(config: ExtendConfig, tokenizer: Path, split: Path) -> Extension:
    """Learn from the train part of a split.

    Raises:
        InputError: a train part without text. ArtefactError: no tokeniser, or no split.
    """
    open_artefact(split, kind="split")
    old = Tokenizer.load(tokenizer)
    words = _words(old, SampledTexts(split / "train", config.sample_bytes))
    if not words:
        raise InputError(f"{split / 'train'} holds no text", remedy="collect documents first")
    names = _names(old)
    characters: list[str] = []
    if any(_BYTE.fullmatch(name) for name in names.values()):
        words, characters = _with_characters(words, names, config)
    merges = _learn(words, config, most=config.tokens - len(characters))
    files, pieces = _longer(old, names, characters, merges)
    return Extension(files, pieces, _fit(old, Tokenizer(files), split / "validation"))


def _words(tokenizer: Tokenizer, batches: Iterable[list[str]]) -> Counter[Word]:
    """Words as ids of the old tokeniser, with their counts; new tokens never cross from one into the next."""
    starts = {n for n in range(tokenizer.vocab_size) if tokenizer.token_bytes(n).startswith(b" ")}
    counts: Counter[Word] = Counter()
    for texts in batches:
        for encoding in tokenizer.encode_words(texts):
            counts.update(_cut(encoding.ids, encoding.word_ids, starts))
    return Counter({word: count for word, count in counts.items() if len(word) > 1})


def _cut(ids: Sequence[int], places: Sequence[int | None], starts: Collection[int]) -> Iterator[Word]:
    """Where the pre-tokeniser cut, and before every token that begins with a space."""
    begin = 0
    for end in range(1, len(ids) + 1):
        if end == len(ids) or places[end] != places[begin] or ids[end] in starts:
            yield tuple(ids[begin:end])
            begin = end


def _names(tokenizer: Tokenizer) -> dict[int, str]:
    model = json.loads(tokenizer.files["tokenizer.json"])
    return {number: name for name, number in model["model"]["vocab"].items()}


def _with_characters(
    words: Counter[Word], names: Mapping[int, str], config: ExtendConfig
) -> tuple[Counter[Word], list[str]]:
    """Where bytes are what characters fall back on: frequent characters become units of their own, numbered from
    `_CHARACTERS` on, the most frequent first; words end at those that stay bytes."""
    bytes_of = {n: int(match[1], 16) for n, name in names.items() if (match := _BYTE.fullmatch(name))}
    spelt = {word: _spell(word, bytes_of) for word in words}
    counts: Counter[str] = Counter()
    for word, units in spelt.items():
        counts.update({unit: words[word] for unit in units if isinstance(unit, str)})
    frequent = [c for c, count in counts.most_common(config.tokens) if count >= config.min_frequency]
    number = {character: _CHARACTERS + place for place, character in enumerate(frequent)}
    found: Counter[Word] = Counter()
    for word, units in spelt.items():
        run: list[int] = []
        for unit in [*units, ""]:
            known = number.get(unit) if isinstance(unit, str) else unit
            if known is not None:
                run.append(known)
            elif run:
                found[tuple(run)] += words[word]
                run = []
    return Counter({word: count for word, count in found.items() if len(word) > 1}), frequent


def _spell(word: Word, bytes_of: Mapping[int, int]) -> list[int | str]:
    """Runs of bytes as the characters that they spell; broken ones as an unknown character."""
    units: list[int | str] = []
    held = bytearray()
    for token in [*word, -1]:
        if token in bytes_of:
            held.append(bytes_of[token])
            continue
        units += held.decode("utf-8", "replace")
        held.clear()
        if token >= 0:
            units.append(token)
    return units


def _learn(
    words: Mapping[Word, int], config: ExtendConfig, *, most: int
) -> list[tuple[list[int], list[int]]]:
    """Pairs to merge, each side as units."""
    if most < 1 or not words:
        return []
    spelt = {"".join(chr(_FIRST + unit) for unit in word): count for word, count in words.items()}
    alphabet = sorted({character for word in spelt for character in word})
    plain = tokenizers.Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.CharDelimiterSplit(" ")
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + most, min_frequency=config.min_frequency, initial_alphabet=alphabet,
        max_token_length=_LONGEST, show_progress=False,
    )  # fmt: skip
    plain.train_from_iterator(_repeated(spelt), trainer)
    merges = json.loads(plain.to_str())["model"]["merges"]
    sides = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    return [([ord(c) - _FIRST for c in a], [ord(c) - _FIRST for c in b]) for a, b in sides]


def _repeated(words: Mapping[str, int]) -> Iterator[str]:
    """Lines that hold each word as often as it was counted."""
    for word, count in words.items():
        for start in range(0, count, 1000):
            yield " ".join([word] * min(count - start, 1000))


def _longer(
    old: Tokenizer,
    names: Mapping[int, str],
    characters: Sequence[str],
    merges: Sequence[tuple[list[int], list[int]]],
) -> tuple[dict[str, str], list[list[int]]]:
    """The files with the new tokens and merges behind theirs, and what each new token is made of."""
    model = json.loads(old.files["tokenizer.json"])
    bpe = model["model"]
    as_text = bool(bpe["merges"]) and isinstance(bpe["merges"][0], str)
    byte_ids = {int(match[1], 16): n for n, name in names.items() if (match := _BYTE.fullmatch(name))}
    name_of = dict(names) | {_CHARACTERS + place: character for place, character in enumerate(characters)}
    pieces: list[list[int]] = []

    def add(name: str, made_of: list[int]) -> None:
        if name not in bpe["vocab"]:
            bpe["vocab"][name] = old.vocab_size + len(pieces)
            pieces.append(made_of)

    def old_ids(unit: int) -> list[int]:
        return [byte_ids[b] for b in name_of[unit].encode()] if unit >= _CHARACTERS else [unit]

    for character in characters:
        add(character, [byte_ids[b] for b in character.encode()])
    for left, right in merges:
        a, b = ("".join(name_of[unit] for unit in side) for side in (left, right))
        bpe["merges"].append(f"{a} {b}" if as_text else [a, b])
        add(a + b, [one for unit in [*left, *right] for one in old_ids(unit)])
    return {**old.files, "tokenizer.json": json.dumps(model, ensure_ascii=False)}, pieces


def _fit(old: Tokenizer, new: Tokenizer, part: Path) -> dict[str, tuple[float, float]]:
    """Characters a token by language."""
    characters: Counter[str] = Counter()
    before: Counter[str] = Counter()
    after: Counter[str] = Counter()
    for rows in iter_tables(part):
        found = rows.to_pylist()
        texts = [content(row) for row in found]
        for row, text, a, b in zip(
            found, texts, old.encode_batch(texts), new.encode_batch(texts), strict=True
        ):
            for language in (row["lang"] or "other", "all"):
                characters[language] += len(text)
                before[language] += len(a)
                after[language] += len(b)
    return {
        lang: (characters[lang] / before[lang], characters[lang] / after[lang])
        for lang in sorted(before)
        if before[lang]
    }
