"""A small village with its shards, and an untrained model of a few thousand parameters."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from hanok.artefacts import create_artefact
from hanok.data.config_tokens import ShardsConfig, SplitConfig, TokenizerConfig
from hanok.data.shards import write_shards
from hanok.data.split import split
from hanok.data.tokenizer import train_tokenizer
from hanok.data.village.build import write_village
from hanok.data.village.config import VillageConfig
from hanok.models.checkpoint import save_model
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder
from hanok.tokens.tokenizer import Tokenizer


class House(NamedTuple):
    village: Path
    shards: Path
    model: Path
    tokenizer: Tokenizer


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    root = tmp_path_factory.mktemp("house")
    config = VillageConfig(
        places=12, documents_per_place=4, asks_per_fact=1, arithmetic=60, abstentions=30, comparisons=20, follow_ups=20,
        tool_calls=20, small_talk=10, letters=5, test_questions=10, validation_questions=4,
    )  # fmt: skip
    village = write_village(config, root / "village").path
    parts = split(SplitConfig(decontaminate=False), village, root / "split").path
    tokenizer = train_tokenizer(TokenizerConfig(vocab_size=700), parts, root / "tokenizer").path
    shards = write_shards(ShardsConfig(), parts, tokenizer, root / "shards").path
    size = ModelConfig(
        vocab_size=Tokenizer.load(tokenizer).vocab_size, hidden_size=32, num_layers=2, pattern=("kda", "mla"), num_heads=2,
        kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8, intermediate_size=64, max_context=512,
    )  # fmt: skip
    with create_artefact(root / "model", kind="model") as draft:
        save_model(
            Decoder(size, generator=torch.Generator().manual_seed(1)), draft.path, tokenizer_dir=tokenizer
        )
    return House(village, shards, root / "model", Tokenizer.load(tokenizer))
