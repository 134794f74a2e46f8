"""A small Korean and English tokeniser, trained once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hanok.data.config_tokens import TokenizerConfig
from hanok.data.tokenizer import Alphabet, learn_merges, tokenizer_files
from hanok.data.words import count_words
from hanok.tokens.tokenizer import Tokenizer

KOREAN = "한옥 마을의 서점은 아침 아홉 시에 열고 저녁 여섯 시에 닫습니다. 월요일에는 쉽니다. 입장료는 3,500원입니다."
ENGLISH = "The tea house opens at nine and closes at six; it's closed on Mondays, and a cup costs 3500 won."


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    words: Counter[str] = count_words([[KOREAN, ENGLISH] * 3])
    alphabet = Alphabet.of(sorted({c for c in KOREAN if "가" <= c <= "힣"}))
    size = alphabet.smallest_vocabulary + 60
    merges = learn_merges(words, alphabet, TokenizerConfig(vocab_size=size))
    return Tokenizer(tokenizer_files(alphabet, merges))


@pytest.fixture(scope="session")
def tokenizer_directory(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(directory)
    return directory


@pytest.fixture(scope="session")
def transformers_tokenizer(tokenizer_directory: Path) -> Any:
    """The same files, read by transformers."""
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(tokenizer_directory)
