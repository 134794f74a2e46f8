"""The model that is served while something goes wrong, and who asks it."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator
from pathlib import Path

import pytest
import serving


@pytest.fixture(scope="session")
def served_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return serving.make_model(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def served_adapters(served_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return serving.make_adapters(served_model, tmp_path_factory.mktemp("served-adapters"))


@pytest.fixture
def crowd() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(max_workers=128) as pool:
        yield pool
