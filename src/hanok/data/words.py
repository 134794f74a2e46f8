"""What a tokeniser is trained on: words and syllables, counted over a sample of bounded size."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from hanok.data.corpus import iter_tables
from hanok.reporting import progress

# Words as the tokeniser sees them. A word takes one leading character (a space, a quote) along; Hangul and other
# letters part company ("Hanok은"), digits stand alone, and a syllable is never cut.
_HANGUL = r"[^\r\n\p{L}\p{N}]?\p{Hangul}+"
_LETTERS = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}&&[^\p{Hangul}]]+"
_REST = r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+"
_CONTRACTIONS = r"'(?i:s|t|re|ve|m|ll|d)(?!\p{L})"
_SPACES = r"\s+(?!\S)|\s+"
PATTERN = f"{_CONTRACTIONS}|{_HANGUL}|{_LETTERS}|\\p{{N}}|{_REST}|{_SPACES}"
# The same for counting, without the look-ahead that polars' engine lacks: runs of spaces stay whole.
_COUNTING_PATTERN = rf"'(?i:s|t|re|ve|m|ll|d)\b|{_HANGUL}|{_LETTERS}|\p{{N}}|{_REST}|\s+"
# What `split_particles` cuts off, after at least two syllables.
_PARTICLES = (
    "에서는|에서도|에게서|으로는|까지는|부터는|이에요|입니다|이었다|에서|에게|한테|으로|까지|부터|처럼|보다|마다|"
    "이나|라는|이라|이다|예요|과의|와의|에는|에도|이며|은|는|이|가|을|를|의|에|로|와|과|도|만|다"
)
_PARTICLE = rf"(?:{_PARTICLES})(?!\p{{Hangul}})"
PARTICLE_PATTERN = (
    rf"(?<=\p{{Hangul}}){_PARTICLE}|[^\r\n\p{{L}}\p{{N}}]?\p{{Hangul}}{{2,}}?(?={_PARTICLE})|{PATTERN}"
)

_FIRST_SYLLABLE, _SYLLABLES = 0xAC00, 11_172


class SampledTexts:
    """Batches of a corpus' texts to count words in: an even sample of bounded size. Counts all syllables on the way."""

    def __init__(self, corpus: Path, sample_bytes: int) -> None:
        self.corpus, self.sample_bytes = corpus, sample_bytes
        characters = int(json.loads((corpus / "corpus.json").read_text(encoding="utf-8"))["characters"])
        self.share = min(1.0, sample_bytes / max(3 * characters, 1))
        self._chance = random.Random(0)  # every n-th would follow the rhythm of, say, alternating languages
        self.seen = self.taken = 0
        self.syllable_counts = np.zeros(_SYLLABLES, dtype=np.int64)

    def __iter__(self) -> Iterator[list[str]]:
        with progress("tokenizer: reading", None, "bytes") as bar:
            for table in iter_tables(self.corpus, columns=("text", "messages", "meta")):
                texts = [content(row) for row in table.to_pylist()]
                size = self._count("".join(texts))
                bar.advance(size)
                batch = [text for text in map(self._sample, texts) if text]
                if batch:
                    yield batch

    def _count(self, text: str) -> int:
        codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        hangul = codes[(codes >= _FIRST_SYLLABLE) & (codes < _FIRST_SYLLABLE + _SYLLABLES)] - _FIRST_SYLLABLE
        self.syllable_counts += np.bincount(hangul, minlength=_SYLLABLES)
        size = len(text.encode())
        self.seen += size
        return size

    def _sample(self, text: str) -> str:
        """The text, what still fits of it, or nothing. Of a corpus that is one huge text its beginning is taken."""
        if self.taken and self._chance.random() >= self.share:
            return ""
        text = text[: max(self.sample_bytes - self.taken, 0)]
        self.taken += len(text.encode())
        return text


def content(row: Mapping[str, Any]) -> str:
    """A document's text, or its conversation in the runs of the chat template: roles, contents, tools, calls."""
    if row["text"] is not None:
        return row["text"]
    tools = json.loads(row["meta"]).get("tools") if '"tools"' in (row["meta"] or "") else None
    lines = [json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools or ()]
    for message in json.loads(row["messages"]):
        role = "user" if message["role"] == "tool" else message["role"]
        lines += [role, message.get("content") or ""]
        for call in message.get("tool_calls") or ():
            function = call["function"]
            lines.append(f'{{"name": {json.dumps(function["name"])}, "arguments": {function["arguments"]}}}')
    return "\n".join(lines)


def count_words(texts: Iterable[list[str]]) -> Counter[str]:
    """Words of the pre-tokeniser's pattern in batches of texts."""
    counts: pl.DataFrame | None = None
    for batch in texts:
        words = pl.DataFrame({"text": batch}, schema={"text": pl.String}).lazy()
        words = words.select(word=pl.col("text").str.extract_all(_COUNTING_PATTERN)).explode("word")
        found = words.drop_nulls().group_by("word").len("n").collect()
        if counts is not None:
            found = pl.concat([counts, found]).group_by("word").agg(pl.col("n").sum())
        counts = found
    return Counter() if counts is None else Counter(dict(counts.sort("word").iter_rows()))


def cut_particles(words: Mapping[str, int]) -> Counter[str]:
    """The same words with their particles counted on their own."""
    form = re.compile(rf"([^가-힣]?[가-힣]{{2,}}?)({_PARTICLES})")
    cut: Counter[str] = Counter()
    for word, count in words.items():
        match = form.fullmatch(word)
        for part in match.groups() if match else (word,):
            cut[part] += count
    return cut


def frequent_syllables(counts: np.ndarray, least: int) -> list[str]:
    """Hangul syllables seen at least `least` times, the most frequent first."""
    order = np.argsort(-counts, kind="stable")
    return [chr(_FIRST_SYLLABLE + int(n)) for n in order[: int((counts >= least).sum())]]
