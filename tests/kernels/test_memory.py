"""Memory for large results that is taken again."""

from __future__ import annotations

import torch

from hanok.kernels.memory import ResultRoom


def test_room_is_taken_again_once_nobody_holds_the_result() -> None:
    room = ResultRoom()
    first = room.floats(4, 100)
    place = first.data_ptr()
    first.fill_(1.0)
    second = room.floats(4, 100)
    second.fill_(2.0)
    assert second.data_ptr() != place
    assert first.eq(1.0).all()
    part = second[1:2, 5:9]  # holds the memory as the whole does
    del second
    third = room.floats(4, 100)
    third.fill_(3.0)
    assert part.eq(2.0).all()
    del part
    place = third.data_ptr()
    del third
    assert room.floats(2, 50).data_ptr() == place


def test_room_grows_and_keeps_nothing_that_is_too_large() -> None:
    room = ResultRoom(most=80_000)
    assert room.floats(1, 10).shape == (1, 10)
    kept = room.floats(100, 200).data_ptr()
    large = room.floats(101, 200)
    assert large.shape == (101, 200)
    assert large.dtype == torch.float32
    assert large.data_ptr() != kept
    assert room.floats(100, 200).data_ptr() == kept
    assert room.floats(0, 100).shape == (0, 100)
