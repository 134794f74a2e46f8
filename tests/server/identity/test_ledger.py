"""What a process keeps in hand of limits: who comes back after a pause does not wait for the store, and others have a share."""

from __future__ import annotations

from pathlib import Path

import pytest

from hanok.server.admission.ledger import FORGOTTEN_SECONDS, IDLE_SECONDS, Errand, Ledger
from hanok.store.allowances import Want
from hanok.store.database import Store


def places(cap: int) -> Want:
    return Want("key:a:concurrency", "places", cap, 1.0)


RATE = Want("key:a:requests_per_minute", "minute", 1600, 1.0)


def asks(ledger: Ledger, want: Want) -> bool:
    """Whether the store had to be asked; the unit is given back then."""
    asked = ledger.take([want])
    if isinstance(asked, Errand):
        asked.done.result(timeout=30)
    ledger.give_back([want])
    return asked is not None


def pause(ledger: Ledger, seconds: float) -> None:
    """So many seconds without a request, and what the thread does then."""
    for account in ledger._accounts.values():
        account.used -= seconds
    ledger._settle()


@pytest.mark.parametrize(("want", "waits"), [(RATE, False), (places(1000), False), (places(8), True)])
def test_who_comes_back_after_a_pause_finds_something_in_hand(
    tmp_path: Path, want: Want, waits: bool
) -> None:
    ledger = Ledger(Store(tmp_path / "store.sqlite"))
    assert asks(ledger, want)
    assert not asks(ledger, want)
    pause(ledger, IDLE_SECONDS + 0.5)
    assert asks(ledger, want) is waits  # of few places none is kept: they are others'
    pause(ledger, FORGOTTEN_SECONDS + 1)
    assert asks(ledger, want)  # the control: all of it went back
    ledger.flush()


def test_a_process_at_rest_leaves_most_places_to_others(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.sqlite")
    resting, other = Ledger(store), Ledger(store)
    assert asks(resting, places(64))
    pause(resting, IDLE_SECONDS + 0.5)
    (left, _), = other.look([places(64)])  # fmt: skip
    assert left == 64 - 64 // 16
    resting.flush()
    (left, _), = other.look([places(64)])  # fmt: skip
    assert left == 64
    other.flush()
