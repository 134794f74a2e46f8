"""Shards for the training benchmark: Korean Wikipedia and English books if the public data are there, else the village."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from hanok.artefacts import create_artefact
from hanok.data.config_tokens import ShardsConfig, SplitConfig, TokenizerConfig
from hanok.data.corpus import CorpusWriter, Document
from hanok.data.shards import write_shards
from hanok.data.split import split
from hanok.data.tokenizer import train_tokenizer
from hanok.reporting import log

_ARTICLE = re.compile(r'<doc id="(\d+)"[^>]*>\n(.*?)\n</doc>', re.DOTALL)
_KOREAN_BYTES, _ENGLISH_BYTES, _PIECE = 24_000_000, 8_000_000, 8_000


def benchmark_shards(
    work: Path, *, vocab_size: int, korean_bytes: int = _KOREAN_BYTES, english_bytes: int = _ENGLISH_BYTES
) -> Path:
    """Make them once under `work`, and return their directory."""
    out = work / "shards"
    if out.exists():
        return out
    data = Path(os.environ.get("HANOK_DATA", "../shared/data"))
    corpus = work / "corpus"
    if not corpus.exists():
        if (data / "kowiki-2020").is_dir():
            log.info("benchmark data: Korean Wikipedia and English books from %s", data)
            _write_public(corpus, public_texts(data, korean_bytes, english_bytes))
        else:
            log.info("benchmark data: the embedded village (no public data at %s)", data)
            _write_village(corpus)
    if not (work / "split").exists():
        split(SplitConfig(decontaminate=False), corpus, work / "split")
    if not (work / "tokenizer").exists():
        train_tokenizer(TokenizerConfig(vocab_size=vocab_size), work / "split", work / "tokenizer")
    write_shards(ShardsConfig(), work / "split", work / "tokenizer", out)
    return out


def _write_village(corpus: Path) -> None:
    from hanok.data.village.build import write_village
    from hanok.data.village.config import VillageConfig

    write_village(VillageConfig(), corpus)


def _write_public(corpus: Path, texts: Iterable[tuple[str, str]]) -> None:
    with create_artefact(corpus, kind="corpus") as draft, CorpusWriter(draft.path) as writer:
        for number, (source, text) in enumerate(texts):
            writer.write(
                Document(id=f"{source}-{number}", text=text, messages=None, source=source, licence="see SOURCE.md",
                         group=f"{source}-{number}", lang=None, meta={})
            )  # fmt: skip


def public_texts(data: Path, korean_bytes: int, english_bytes: int) -> Iterator[tuple[str, str]]:
    """(source, text): articles first, then pieces of books."""
    taken = 0
    for page in _tar_texts(data / "kowiki-2020" / "kowiki_dev.tar.gz"):
        for article in _ARTICLE.finditer(page):
            if len(article[2]) > 200 and taken < korean_bytes:
                taken += len(article[2].encode())
                yield "kowiki-2020", article[2]
    taken = 0
    for book in _tar_texts(data / "classic-books-en" / "classic_books_dev.tar.gz"):
        for start in range(0, len(book), _PIECE):
            if taken < english_bytes:
                taken += _PIECE
                yield "classic-books-en", book[start : start + _PIECE]


def _tar_texts(path: Path) -> Iterator[str]:
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None:
                yield file.read().decode("utf-8", errors="replace")
