"""A closed engine gives its memory back at once, whoever still knows its name."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from hanok.engine.api import Request, SamplingParams
from hanok.engine.generator import LocalEngine
from hanok.errors import InputError
from hanok.kernels.native import native_available
from hanok.models.config import MoEConfig

NATIVE = pytest.mark.skipif(not native_available(), reason="the native kernels are not built")
PLAIN = {"pattern": ("gqa",), "num_heads": 4, "num_kv_heads": 2, "hidden_size": 64}
HYBRID = {"pattern": ("kda", "gqa"), "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "hidden_size": 64}


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Objects in circles stay, as in a server that is busy."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        (PLAIN, {"weights": "float32"}),
        pytest.param(PLAIN, {"weights": "bf16"}, marks=NATIVE),
        pytest.param(PLAIN, {"weights": "int4+"}, marks=NATIVE),
        pytest.param(HYBRID, {"weights": "bf16"}, marks=NATIVE),
        pytest.param(HYBRID | {"mtp_layers": 1}, {"weights": "bf16"}, marks=NATIVE),
        pytest.param(PLAIN | {"moe": MoEConfig(experts=4, per_token=2, width=24)}, {"weights": "bf16"}, marks=NATIVE),
    ],
)  # fmt: skip
def test_nothing_keeps_what_it_held(
    shape: dict[str, object], options: dict[str, object], tmp_path: Path, tiny: ModuleType
) -> None:
    engine = LocalEngine(tiny.save_tiny_model(tmp_path / "model", **shape), **options)  # type: ignore[arg-type]
    engine.generate([Request(id="a", prompt_ids=range(5, 90), params=SamplingParams(max_tokens=4))])
    engine.score(range(5, 40))
    held = (engine.decoder, engine._scheduler, engine._paged)
    parts = [weakref.ref(part) for part in held if part is not None]
    del held
    engine.close()
    assert [part() for part in parts] == [None] * len(parts)
    itself = weakref.ref(engine)
    del engine
    assert itself() is None


def test_calls_say_that_it_is_closed(tmp_path: Path, tiny: ModuleType) -> None:
    engine = LocalEngine(tiny.save_tiny_model(tmp_path / "model", **PLAIN))
    engine.close()
    engine.close()  # as often as one likes
    calls: list[Callable[[], object]] = [
        lambda: engine.score([5, 6]), lambda: engine.embed([5], 0), lambda: engine.update_weights({}), engine.wake,
        lambda: engine.generate([Request(id="a", prompt_ids=[5], params=SamplingParams())]),
        lambda: engine.load_adapter("a", tmp_path),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(InputError, match="closed"):
            call()
    engine.sleep()  # nothing to do
    assert engine.metrics().asleep
