"""What several servers know of a caller is put together where nobody comes between."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from hanok.store.access import Access, Tenant
from hanok.store.database import Store
from hanok.store.extraction import COUNTS, Caller, ExtractionTable, Known
from hanok.store.review.items import Item
from hanok.store.review.queue import Reviews

WHO = Caller(owner="k1", tenant="acme")
ONE: dict[str, int] = dict.fromkeys(COUNTS, 1)


def one_more(known: Known) -> tuple[Known, Item | None]:
    item = Item(kind="extraction", source=f"ex-{known.score}", tenant="acme", owner="k1")
    after = replace(known, score=known.score + 1, step="review", sketch=known.sketch + "x")
    return after, item if known.step != "review" else None


def test_nothing_that_servers_add_at_once_is_lost(place: Path | str) -> None:
    with Store(place) as store:
        Access(store).add(Tenant(id="acme"))
        table = ExtractionTable(store)
        with ThreadPoolExecutor(4) as pool:
            done = list(pool.map(lambda _: table.add(WHO, {600: ONE}, one_more, 700.0), range(24)))
        assert all(one is not None for one in done)
        assert sorted(one[0].score for one in done if one is not None) == list(range(24))
        known = table.find(WHO)
        assert known is not None
        assert (known.score, known.sketch) == (24, "x" * 24)
        assert table.windows(WHO, 700.0)["hour"]["requests"] == 24
        (item,) = Reviews(store).page(now=1.0)
        assert (item.kind, item.owner) == ("extraction", "k1")
        assert table.clear(WHO)
        assert not table.clear(WHO)
        assert table.find(WHO) == replace(known, score=0.0, step="", sketch="", epoch=1)
        assert table.windows(WHO, 700.0)["hour"]["requests"] == 24
        Access(store).delete_tenant("acme", now=1.0)
        assert table.add(WHO, {600: ONE}, one_more, 700.0) is None
        assert table.find(WHO) is None
