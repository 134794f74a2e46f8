"""Several servers at one store: what each sees of a caller is put together, over a restart too, and a clearing reaches all."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hanok.engine.api import Request, SamplingParams
from hanok.guard.extraction import Sketch
from hanok.guard.policy import parse_policy
from hanok.guard.rulebook import Guard
from hanok.server.auditing.trail import Trail
from hanok.server.errors import ApiError
from hanok.server.principal import Principal
from hanok.server.protection.monitor import FLUSH_SECONDS, Monitor
from hanok.store.database import Store
from hanok.store.extraction import Caller, ExtractionTable
from hanok.store.review.queue import Reviews

POLICY = """format = 1
[extraction]
enabled = true
log = 5
no_logprobs = 20
review = 30
"""
WHO = Principal(id="k1")
CALLER = Caller(owner="k1", tenant="default")


class Told(Trail):
    def __init__(self) -> None:
        super().__init__()
        self.steps: list[str] = []

    def tell(self, kind: str, **values: Any) -> None:
        self.steps.append(values["facts"]["step"])


class House:
    def __init__(self, store: Store) -> None:
        self.store, self.now, self.told = store, 1e9, Told()
        self.table = ExtractionTable(store)
        self.servers = [self.start() for _ in range(2)]
        self.draw = random.Random(1)

    def start(self) -> Monitor:
        guard = Guard(parse_policy(POLICY))
        return Monitor(self.store, guard, self.told, clock=lambda: self.now)

    def prompt(self) -> list[int]:
        return [self.draw.randrange(5000) for _ in range(40)]

    def ask(self, server: int, prompt: list[int] | None = None, *, copies: bool = True) -> int:
        """The status."""
        params = SamplingParams(logprobs=3 if copies else None, temperature=0.0 if copies else 1.0)
        request = Request(id="r", prompt_ids=prompt or self.prompt(), params=params)
        self.now += 0.001
        try:
            asyncio.run(self.servers[server].admit(WHO, request))
        except ApiError as error:
            return error.status
        return 200

    def flush(self) -> None:
        for server in self.servers:
            server.flush()

    def score(self) -> float:
        known = self.table.find(CALLER)
        return 0.0 if known is None else known.score


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with Store(tmp_path / "store.sqlite") as store:
        yield House(store)


def test_scores_counts_and_prompts_of_both_are_there(house: House, tmp_path: Path) -> None:
    prompts = [house.prompt() for _ in range(12)]
    for place, prompt in enumerate(prompts):
        house.ask(place % 2, prompt)
    house.flush()
    with Store(tmp_path / "alone.sqlite") as store:
        alone = House(store)
        for prompt in prompts:
            alone.ask(0, prompt)
        alone.flush()
        assert house.score() == pytest.approx(alone.score(), abs=0.1)
        assert house.score() > 5
        assert house.table.windows(CALLER, house.now) == alone.table.windows(CALLER, house.now)
        known, one = house.table.find(CALLER), alone.table.find(CALLER)
        assert known is not None
        assert one is not None
        sketch, whole = Sketch.unpacked(known.sketch), Sketch.unpacked(one.sketch)
    assert set(sketch.known) == set(whole.known)
    assert sorted(sketch.recent) == sorted(whole.recent)
    assert (sketch.cells == whole.cells).all()
    house.servers = [house.start() for _ in range(2)]  # a restart forgets nothing
    before = house.table.windows(CALLER, house.now)["hour"]
    for place, prompt in enumerate(prompts):
        house.ask(1 - place % 2, prompt)  # known, whichever server had seen it
    house.flush()
    after = house.table.windows(CALLER, house.now)["hour"]
    assert after["distinct_prompts"] == before["distinct_prompts"] == 12
    assert after["requests"] == 24


def test_a_week_fades_the_score_once_however_many_servers_there_are(house: House) -> None:
    for place in range(24):
        house.ask(place % 2)
    house.flush()
    before = house.score()
    house.now += 7 * 86_400
    for server in range(2):
        house.ask(server, [1, 2, 3], copies=False)
    house.flush()
    assert house.score() == pytest.approx(before / 2, abs=1.0)


def test_each_step_is_told_once_and_one_person_is_asked(house: House) -> None:
    statuses = [house.ask(place % 2) for place in range(80)]
    assert 403 in statuses
    house.now += FLUSH_SECONDS + 1
    assert [house.ask(server) for server in range(2)] == [403, 403]  # whoever had seen less of it too
    assert house.told.steps == ["log", "no_logprobs", "review"]
    assert len(Reviews(house.store).page(now=house.now, kind="extraction")) == 1


def test_clearing_at_one_server_reaches_the_other(house: House) -> None:
    for place in range(80):
        house.ask(place % 2)
    house.flush()
    assert house.servers[0].clear(CALLER)
    assert house.ask(0) == 200
    house.now += FLUSH_SECONDS + 1
    assert house.ask(1) == 200
    house.flush()
    assert house.score() < 5
    house.ask(1)
    house.servers[0].clear(CALLER)
    house.flush()  # what the other saw before it was cleared does not come back
    assert house.score() == 0.0
    assert not house.servers[0].clear(CALLER)
