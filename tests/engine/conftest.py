from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from hanok.engine.generator import LocalEngine


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"engine_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_tiny, _small, _adapted = _load("tiny"), _load("small"), _load("adapted")


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """tiny_config, save_tiny_model."""
    return _tiny


@pytest.fixture(scope="session")
def small() -> ModuleType:
    """decoder_of, native_of, scheduler_of, generation_of, run, alone."""
    return _small


@pytest.fixture(scope="session")
def adapted() -> ModuleType:
    """random_adapter, random_lows, all_maps, merged_model, save_with_tokenizer."""
    return _adapted


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _tiny.save_tiny_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="session")
def engine(model_dir: Path) -> LocalEngine:
    return LocalEngine(model_dir)
