"""Training a byte-level BPE tokeniser in which frequent Hangul syllables are single tokens.

A syllable is three UTF-8 bytes, which plain byte-level BPE re-assembles late and often across syllable borders. Here
the first merges are fixed: (lead, middle) then (lead+middle, last) for every syllable seen often enough. They outrank
all others, so these syllables are whole before anything else happens, and BPE learns the rest over syllables, single
bytes and the two-byte beginnings. Rare syllables and every other character fall back to bytes.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from hanok.artefacts import Artefact, create_artefact, open_artefact
from hanok.data.config_tokens import TokenizerConfig
from hanok.data.corpus import iter_tables
from hanok.data.words import (
    PARTICLE_PATTERN,
    PATTERN,
    SampledTexts,
    content,
    count_words,
    cut_particles,
    frequent_syllables,
)
from hanok.errors import ConfigError, InputError
from hanok.reporting import Report
from hanok.tokens.control import CONTROL_TOKENS, END_OF_TEXT, IM_END, PAD
from hanok.tokens.pieces import character_of_byte
from hanok.tokens.template import default_template
from hanok.tokens.tokenizer import FILES, Tokenizer

_BEGINNINGS = 0xE000  # private characters that stand for two-byte beginnings while BPE trains
_BYTE = character_of_byte()
_LONGEST_TOKEN = 24
_FEED_WORDS = 50_000


def train_tokenizer(config: TokenizerConfig, split: Path, out: Path) -> Artefact:
    """Train on the train part of a split and write a tokenizer artefact.

    Raises:
        ConfigError: a vocabulary that is too small for the syllables, or larger than the data allows.
        InputError: a train part without text.
    """
    parent = open_artefact(split, kind="split")
    texts = SampledTexts(split / "train", config.sample_bytes)
    words = count_words(texts)
    if not words:
        raise InputError(f"{split / 'train'} holds no text", remedy="collect documents first")
    if config.split_particles:
        words = cut_particles(words)
    syllables = frequent_syllables(texts.syllable_counts, config.syllable_count)
    alphabet = Alphabet.of(syllables)
    merges = learn_merges(words, alphabet, config)
    files = tokenizer_files(alphabet, merges, PARTICLE_PATTERN if config.split_particles else PATTERN)
    tokenizer = Tokenizer(files)
    with create_artefact(
        out, kind="tokenizer", parents={"split": parent}, step=dataclasses.asdict(config)
    ) as draft:
        tokenizer.save(draft.path)
        draft.metrics |= {
            "vocab_size": tokenizer.vocab_size,
            "syllables": len(syllables),
            "merges": len(merges),
            "sampled_bytes": texts.taken,
            "train_bytes": texts.seen,
        }
        draft.metrics |= _report(tokenizer, split, texts, alphabet, merges, draft.path)
    return open_artefact(out, kind="tokenizer")


@dataclass(frozen=True, slots=True)
class Alphabet:
    """What BPE starts from: bytes, two-byte beginnings of frequent syllables, and the syllables."""

    syllables: tuple[str, ...]
    beginnings: tuple[bytes, ...]

    @classmethod
    def of(cls, syllables: Sequence[str]) -> Alphabet:
        return cls(tuple(syllables), tuple(sorted({s.encode()[:2] for s in syllables})))

    @property
    def smallest_vocabulary(self) -> int:
        return len(CONTROL_TOKENS) + 256 + len(self.beginnings) + len(self.syllables)

    def units(self) -> dict[str, str]:
        """Character that stands for a unit while training -> its name in the byte-level alphabet."""
        named = {character: character for character in _BYTE}
        named |= {chr(_BEGINNINGS + n): byte_name(b) for n, b in enumerate(self.beginnings)}
        return named | {syllable: byte_name(syllable.encode()) for syllable in self.syllables}


def byte_name(data: bytes) -> str:
    """Bytes in the byte-level alphabet."""
    return "".join(_BYTE[byte] for byte in data)


def learn_merges(words: Counter[str], alphabet: Alphabet, config: TokenizerConfig) -> list[tuple[str, str]]:
    """BPE merges over the alphabet's units, as pairs of byte-level names.

    Raises:
        ConfigError: the vocabulary does not hold the alphabet, or the words have fewer pairs than it wants.
    """
    smallest = alphabet.smallest_vocabulary
    if config.vocab_size < smallest:
        raise ConfigError(
            f"vocab_size = {config.vocab_size} is too small: {len(alphabet.syllables)} Hangul syllables occur at least "
            f"{config.syllable_count} times in the train split",
            remedy=f"use at least {smallest}, or raise syllable_count",
        )
    units = alphabet.units()
    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.CharDelimiterSplit(" ")
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size - len(CONTROL_TOKENS),
        min_frequency=config.min_frequency,
        initial_alphabet=list(units),
        max_token_length=_LONGEST_TOKEN,
        special_tokens=[],
        show_progress=False,
    )
    model.train_from_iterator(_spell(words, alphabet), trainer)
    learnt = json.loads(model.to_str())["model"]["merges"]
    merges = [(_rename(left, units), _rename(right, units)) for left, right in learnt]
    allowed = smallest + len({left + right for left, right in merges})
    if allowed < config.vocab_size:
        raise ConfigError(
            f"vocab_size = {config.vocab_size} is larger than the data allows",
            remedy=f"these documents give at most {allowed}; lower vocab_size or add documents",
        )
    return merges


def tokenizer_files(
    alphabet: Alphabet, merges: Sequence[tuple[str, str]], pattern: str = PATTERN
) -> dict[str, str]:
    """The files of a tokeniser directory, by name."""
    seeds = _seed_merges(alphabet)
    names = [*CONTROL_TOKENS, *_BYTE, *(left + right for left, right in [*seeds, *merges])]
    vocab = {name: number for number, name in enumerate(dict.fromkeys(names))}
    model = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[*seeds, *merges]))
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    model.post_processor = processors.ByteLevel(trim_offsets=False)
    model.decoder = decoders.ByteLevel()
    model.add_special_tokens(
        [tokenizers.AddedToken(name, special=True, normalized=False) for name in CONTROL_TOKENS]
    )
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": PAD,
        "additional_special_tokens": list(CONTROL_TOKENS[2:]),
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "chat_template": default_template(),
    }
    generation = {
        "bos_token_id": 0,
        "eos_token_id": [vocab[IM_END], vocab[END_OF_TEXT]],
        "pad_token_id": vocab[PAD],
    }
    contents = (
        model.to_str(pretty=False),
        *(json.dumps(v, ensure_ascii=False, indent=2) for v in (config, generation)),
    )
    return dict(zip(FILES, contents, strict=True))


def _spell(words: Counter[str], alphabet: Alphabet) -> Iterator[str]:
    """The words in the alphabet's units, each as often as it was seen, many on a line."""
    spelling = _Spelling(alphabet)
    line: list[str] = []
    for word, count in words.items():
        unit_word = word.translate(spelling)
        while count > 0:
            now = min(count, _FEED_WORDS)
            line += [unit_word] * now
            count -= now
            if len(line) >= _FEED_WORDS:
                yield " ".join(line)
                line = []
    yield " ".join(line)


class _Spelling(dict[int, str]):
    """For `str.translate`: a character in units, worked out when first met."""

    def __init__(self, alphabet: Alphabet) -> None:
        super().__init__({ord(syllable): syllable for syllable in alphabet.syllables})
        self._beginnings = {data: chr(_BEGINNINGS + n) for n, data in enumerate(alphabet.beginnings)}

    def __missing__(self, code: int) -> str:
        data = chr(code).encode()
        beginning = self._beginnings.get(data[:2]) if len(data) == 3 else None
        units = beginning + _BYTE[data[2]] if beginning else byte_name(data)
        self[code] = units
        return units


def _rename(units: str, names: dict[str, str]) -> str:
    return "".join(names[unit] for unit in units)


def _seed_merges(alphabet: Alphabet) -> list[tuple[str, str]]:
    beginnings = [(_BYTE[data[0]], _BYTE[data[1]]) for data in alphabet.beginnings]
    endings = [(byte_name(s.encode()[:2]), _BYTE[s.encode()[2]]) for s in alphabet.syllables]
    return beginnings + endings


def _report(
    tokenizer: Tokenizer,
    split: Path,
    texts: SampledTexts,
    alphabet: Alphabet,
    merges: Sequence[tuple[str, str]],
    out: Path,
) -> dict[str, float]:
    held_out: list[str] = []
    for table in iter_tables(split / "validation", columns=("text", "messages", "meta")):
        held_out += [content(row) for row in table.to_pylist()]
        if sum(map(len, held_out)) > 1_000_000:
            break
    encoded = tokenizer.encode_batch(held_out)
    size, count = sum(len(text.encode()) for text in held_out), sum(map(len, encoded))
    characters = sum(map(len, held_out))
    metrics = {
        "bytes_per_token": round(size / count, 4) if count else 0.0,
        "characters_per_token": round(characters / count, 4) if count else 0.0,
    }
    report = Report("Tokeniser")
    report.add_table(
        "Vocabulary",
        ("part", "tokens"),
        [
            ("control tokens", len(CONTROL_TOKENS)),
            ("bytes", 256),
            ("beginnings of syllables", len(alphabet.beginnings)),
            ("Hangul syllables", len(alphabet.syllables)),
            ("learnt", tokenizer.vocab_size - alphabet.smallest_vocabulary),
            ("all", tokenizer.vocab_size),
        ],
    )
    report.add_table(
        "Text",
        ("measure", "value"),
        [
            ("bytes in the train split", texts.seen),
            ("bytes that BPE learnt from", texts.taken),
            ("bytes per token, validation", metrics["bytes_per_token"]),
            ("characters per token, validation", metrics["characters_per_token"]),
        ],
    )
    examples = [(text[:200], ids) for text, ids in zip(held_out[:6], encoded[:6], strict=True)]
    report.add_examples(
        "Validation texts, token by token",
        [(f"{len(ids)} tokens", "|".join(tokenizer.decode([n]) for n in ids[:80])) for _, ids in examples],
    )
    last = [left + right for left, right in merges]
    names = {tokenizer.token_bytes(n).decode("utf-8", "replace") for n in range(tokenizer.vocab_size)}
    longest = sorted(names, key=lambda name: (-len(name), name))[:60]
    report.add_text("Longest tokens", "  ".join(longest))
    report.add_json({"metrics": metrics, "merges": len(last)})
    report.write(out)
    return metrics
