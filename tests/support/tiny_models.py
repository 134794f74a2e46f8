"""A random model of 40 thousand parameters under a byte-level tokeniser; shared by the rooms above the engine."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch

from hanok.data.tokenizer import Alphabet, TokenizerConfig, learn_merges, tokenizer_files
from hanok.models.checkpoint import save_model
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder
from hanok.tokens.tokenizer import Tokenizer


def tiny_config(**changes: Any) -> ModelConfig:
    settings = {
        "vocab_size": 266, "hidden_size": 32, "num_layers": 4, "pattern": ("kda", "mla", "gqa", "swa"), "num_heads": 2,
        "head_dim": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 16,
        "sliding_window": 24, "intermediate_size": 64, "max_context": 2048, "initializer_range": 0.3,
    }  # fmt: skip
    return ModelConfig(**{**settings, **changes})


def merged_tokenizer() -> Tokenizer:
    """Pieces of many bytes: of JSON, across its borders, and of Hangul, whole syllables and parts of them."""
    marks = [
        '{"',
        '"}',
        '":',
        '","',
        '"}}',
        '"}\n',
        '["',
        '"]',
        "]}",
        "},",
        "\\n",
        '\\"',
        "}}\n",
        '{"name":',
        '"arguments":',
    ]
    texts = [
        "한옥 마을의 찻집은 아홉 시에 엽니다",
        "the tea house opens at nine",
        "true false null 0 12 345 -6.7 e+10",
    ]
    words = Counter(
        dict.fromkeys([*marks, *(w for text in texts for w in (*text.split(), f'"{text[:6]}"'))], 50)
    )
    alphabet = Alphabet.of(sorted(set(texts[0]) - {" "}))
    config = TokenizerConfig(vocab_size=alphabet.smallest_vocabulary + 60, min_frequency=1)
    merges = learn_merges(words, alphabet, config)
    return Tokenizer(tokenizer_files(alphabet, merges))


def save_tiny_model(
    directory: Path, *, seed: int = 0, tokenizer: Tokenizer | None = None, **changes: Any
) -> Path:
    if tokenizer is None:
        tokenizer = Tokenizer(tokenizer_files(Alphabet.of([]), []))
    else:
        changes["vocab_size"] = tokenizer.vocab_size
    generator = torch.Generator().manual_seed(seed)
    model = Decoder(tiny_config(**changes), generator=generator)
    for name, parameter in model.named_parameters():
        if name.endswith(
            ("o_proj.weight", "down_proj.weight")
        ):  # zero in a new model: it would ignore its context
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5, generator=generator)
    save_model(model, directory)
    tokenizer.save(directory)
    return directory
