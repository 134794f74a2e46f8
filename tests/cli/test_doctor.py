"""What `hanok doctor` says of GPUs, here and on a machine that has some."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from hanok.cli.doctor import _gpu


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert _gpu() == [("GPU", "none", "everything runs on the CPU")]


@pytest.mark.parametrize("bf16", [True, False])
def test_with_two(bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(name="A card", total_memory=80 << 30)
    for name, value in (
        ("is_available", True), ("device_count", 2), ("get_device_properties", properties), ("is_bf16_supported", bf16),
    ):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    first, second, precision, kernels = _gpu()
    assert first == ("GPU 0", "A card, 80 GiB", "training and engines use it by themselves")
    assert second[2].endswith("(--device cuda:1)")
    assert precision[1] == ("yes" if bf16 else "no")
    assert kernels[0] == "fla-core"
