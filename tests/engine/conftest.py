from __future__ import annotations

from pathlib import Path
from types import ModuleType

import adapted_models
import pytest
import small_models
import tiny_models

from hanok.engine.generator import LocalEngine


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """tiny_config, save_tiny_model."""
    return tiny_models


@pytest.fixture(scope="session")
def small() -> ModuleType:
    """decoder_of, native_of, scheduler_of, irregular_clock, generation_of, run, alone."""
    return small_models


@pytest.fixture(scope="session")
def adapted() -> ModuleType:
    """random_adapter, random_lows, all_maps, merged_model, save_with_tokenizer."""
    return adapted_models


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_tiny_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="session")
def engine(model_dir: Path) -> LocalEngine:
    return LocalEngine(model_dir)
