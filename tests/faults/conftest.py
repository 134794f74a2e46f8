"""The tiny run, and what two runs that must be equal are compared by."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

_FILE = Path(__file__).resolve().parent / "tiny_training.py"


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """write_tiny_shards, tiny_model, tiny_config."""
    if "tiny_training" not in sys.modules:
        spec = importlib.util.spec_from_file_location("tiny_training", _FILE)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["tiny_training"] = module
        spec.loader.exec_module(module)
    return sys.modules["tiny_training"]


@pytest.fixture(scope="session")
def shards(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_tiny_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="session")
def serving() -> ModuleType:
    """service, and clients that behave badly."""
    if "serving_faults" not in sys.modules:
        spec = importlib.util.spec_from_file_location("serving_faults", _FILE.with_name("serving.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["serving_faults"] = module
        spec.loader.exec_module(module)
    return sys.modules["serving_faults"]


@pytest.fixture(scope="session")
def served_model(serving: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return serving.make_model(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def served_adapters(
    serving: ModuleType, served_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    return serving.make_adapters(served_model, tmp_path_factory.mktemp("served-adapters"))
