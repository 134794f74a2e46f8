"""Random models that a server can serve: weights of `decode.make_model`, and a tokeniser of any size whose words are one token
each, so that a text of so many words is a prompt of so many tokens on every side.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from string import ascii_lowercase

from hanok.artefacts import create_artefact
from hanok.bench.decode import SHAPE, make_model
from hanok.data.tokenizer import Alphabet, tokenizer_files
from hanok.models.checkpoint import load_model, save_model
from hanok.models.config import ModelConfig
from hanok.reporting import log
from hanok.tokens.tokenizer import Tokenizer

_SPACE = "\u0120"  # what the byte-level alphabet writes for a space
_LETTERS = 2  # of a word, behind its space


def make_chat_model(
    folder: Path, shape: ModelConfig = SHAPE, name: str = "qwen3-0.6b-random", *, suffix: str = "-chat"
) -> Path:
    """The random model with a tokeniser of as many tokens as it has rows and a chat template, made once."""
    plain = make_model(folder, shape, name)
    directory = folder / f"{name}{suffix}"
    if not directory.is_dir():
        log.info("giving %s a tokeniser of %d tokens", name, shape.vocab_size)
        with create_artefact(directory, kind="model", step={"of": name}) as draft:
            save_model(load_model(plain, dtype="stored"), draft.path)
            word_tokenizer(shape.vocab_size).save(draft.path)
    return directory


def word_tokenizer(tokens: int) -> Tokenizer:
    """Of exactly so many tokens, with every word of two letters behind a space where there is room for them."""
    alphabet = Alphabet.of([])
    merges = list(itertools.islice(_merges(), tokens - alphabet.smallest_vocabulary))
    return Tokenizer(tokenizer_files(alphabet, merges))


def random_prompts(tokenizer: Tokenizer, count: int, tokens: int, *, seed: int) -> list[str]:
    """Messages that make prompts of exactly `tokens` tokens with the chat template around them, all different."""
    source = random.Random(seed)
    around = len(chat_ids(tokenizer, " on")) - 1
    assert len(chat_ids(tokenizer, " on tw")) == around + 2, "a word is not a token"
    words = [_words(source, tokens - around) for _ in range(count)]
    assert {len(chat_ids(tokenizer, text)) for text in words} == {tokens}
    return words


def chat_ids(tokenizer: Tokenizer, message: str) -> list[int]:
    """The prompt that the server makes of one user's message."""
    from hanok.engine.text import chat_prompt

    return chat_prompt(tokenizer, [{"role": "user", "content": message}])


def _words(source: random.Random, count: int) -> str:
    return "".join(" " + "".join(source.choices(ascii_lowercase, k=_LETTERS)) for _ in range(count))


def _merges() -> Iterator[tuple[str, str]]:
    """Words letter by letter from their space on, the shorter first; then the same without a space, for ever longer ones."""
    for start, longest in ((_SPACE, _LETTERS + 1), ("", 99)):
        for length in range(2, longest + 1):
            letters = length - len(start)
            for word in itertools.product(ascii_lowercase, repeat=letters):
                whole = start + "".join(word)
                yield whole[:-1], whole[-1]


def tokenizer_settings(directory: Path) -> dict[str, str]:
    """The tokeniser's files as `save_gguf` takes them, without a template that other programs may not know."""
    files = Tokenizer.load(directory).files
    settings = json.loads(files["tokenizer_config.json"])
    settings.pop("chat_template", None)
    return files | {"tokenizer_config.json": json.dumps(settings)}
