"""The small public models, importable by the tests of this folder."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_spec = importlib.util.spec_from_file_location("public_models", Path(__file__).with_name("public_models.py"))
assert _spec is not None
assert _spec.loader is not None
module = importlib.util.module_from_spec(_spec)
sys.modules["public_models"] = module
_spec.loader.exec_module(module)
