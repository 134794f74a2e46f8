from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from hanok.engine.generator import LocalEngine

_spec = importlib.util.spec_from_file_location("engine_tiny", Path(__file__).with_name("tiny.py"))
assert _spec is not None
assert _spec.loader is not None
_tiny = importlib.util.module_from_spec(_spec)
sys.modules["engine_tiny"] = _tiny
_spec.loader.exec_module(_tiny)


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """tiny_config, save_tiny_model."""
    return _tiny


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _tiny.save_tiny_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="session")
def engine(model_dir: Path) -> LocalEngine:
    return LocalEngine(model_dir)
