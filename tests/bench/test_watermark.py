"""The benchmark of the watermark: whom it accuses, counted by texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from hanok.bench import watermark
from hanok.evaluation.statistics import wilson
from hanok.tokens.watermark import Watermark


def test_a_text_is_asked_about_under_one_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the interval is that of as many independent texts; keys take turns, and the worst of them is told."""
    asked: dict[tuple[float, int], list[tuple[int, bytes]]] = {}

    def detect(ids: Sequence[int], mark: Watermark) -> SimpleNamespace:
        asked.setdefault((mark.gamma, mark.width), []).append((ids[0], mark.key))
        alarm = ids[0] in (3, 13, 14)
        return SimpleNamespace(p_value=1e-6 if alarm else 0.5, whole=SimpleNamespace(z=5.0 if alarm else 0.0))

    monkeypatch.setattr(watermark, "detect", detect)
    found = watermark._false_alarms([[number] for number in range(300)], keys=10, seed=1)
    assert len(asked) == 3
    for pairs in asked.values():
        assert [number for number, _ in pairs] == [*range(300)]
        assert set(Counter(key for _, key in pairs).values()) == {30}
    share = wilson(3, 300)
    for row in found:
        assert (row["runs"], row["ours"], row["worst_key"]) == (300, 0.01, 2 / 30)
        assert (row["low"], row["high"]) == (round(share.low, 5), round(share.high, 5))
