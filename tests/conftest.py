"""Fixtures shared by every room."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# the machine may be busy; where a failure cannot be looked into at once, every run tries the same examples
settings.register_profile("hanok", deadline=None, derandomize="HANOK_CI" in os.environ)
settings.load_profile("hanok")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data sets; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("HANOK_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs the public data sets: no folder at {folder} (set HANOK_DATA)")
    return folder
