"""Limits over the API: what is refused, what is given back, what is written down."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from slow_engine import slow_down

from hanok.errors import ConfigError
from hanok.server.admission.prices import Price, Prices, read_prices
from hanok.server.identity.directory import Entry
from hanok.server.identity.secrets import public_id
from hanok.server.operations.config import ServeSettings
from hanok.server.operations.service import Operations
from hanok.store.access import Key
from hanok.store.usage import read_usage

PRICES = Prices(default=Price(prompt=1000.0, cached=500.0, completion=2000.0))


@pytest.fixture
def dear(make_house: Callable[..., Any]) -> Any:
    """Where a thousand tokens cost one or two."""
    return make_house(entry=Entry(prices=PRICES))


def used(house: Any, **options: Any) -> list[dict[str, Any]]:
    house.services.admission.ledger.flush()
    return read_usage(house.services.store, by=("tenant", "key", "model"), **options)


def test_requests_a_minute(house: Any) -> None:
    key = house.make_key(limits={"requests_per_minute": 3})
    answers = [house.chat(key) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    refused = answers[3]
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert all(
        15 <= int(answer.headers["Retry-After"]) <= 20 for answer in answers[3:]
    )  # the last from memory
    assert answers[0].headers["x-ratelimit-limit-requests"] == "3"
    left = [int(answer.headers["x-ratelimit-remaining-requests"]) for answer in answers[:3]]
    assert left == [2, 1, 0]
    assert answers[0].headers["RateLimit-Policy"] == '"requests";q=3;w=60'
    assert answers[2].headers["RateLimit"].startswith('"requests";r=0;t=')
    assert house.chat(house.make_key()).status_code == 200  # another key is not touched


def test_a_tenants_limits_are_of_all_its_keys_together(house: Any) -> None:
    house.management.create_tenant("acme", limits={"requests_per_minute": 3})
    keys = [house.make_key(tenant="acme") for _ in range(2)]
    codes = [house.chat(keys[number % 2]).status_code for number in range(5)]
    assert codes == [200, 200, 200, 429, 429]
    assert "of this tenant" in house.chat(keys[0]).json()["error"]["message"]


def test_prompt_tokens_are_counted_before(house: Any) -> None:
    prompt = house.chat(house.make_key()).json()["usage"]["prompt_tokens"]
    key = house.make_key(limits={"prompt_tokens_per_minute": prompt * 2 + 1})
    assert [house.chat(key).status_code for _ in range(3)] == [200, 200, 429]
    small = house.make_key(limits={"prompt_tokens_per_minute": prompt - 1})
    assert "send less" in house.chat(small).json()["error"]["message"]


def test_completion_tokens_are_reserved_and_given_back(house: Any) -> None:
    key = house.make_key(limits={"completion_tokens_per_minute": 100})
    done = house.chat(key, json={"max_tokens": 90, "stop": None}).json()["usage"]["completion_tokens"]
    house.services.admission.ledger.flush()
    limits = house.ask(key, path="/v1/usage").json()["limits"]
    assert limits[0]["limit"] == "completion_tokens_per_minute"
    house.chat(key, json={"max_tokens": 1})
    left = house.ask(key, path="/v1/usage").json()["limits"][0]["remaining"]
    assert left >= 100 - done - 2  # not 10


def test_an_answer_without_a_limit_may_run_and_pays_behind(house: Any) -> None:
    key = house.make_key(limits={"completion_tokens_per_minute": 5})
    ends = {str(token): -100 for token in house.services.models.default.engine.tokenizer.stop_ids}
    done = house.chat(key, json={"max_tokens": 30, "logit_bias": ends})
    assert done.json()["usage"]["completion_tokens"] == 30
    house.services.admission.ledger._settle()
    refused = house.chat(key, json={"max_tokens": 1})
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) > 240  # 25 tokens too many at 5 a minute


def test_a_budget_is_never_overspent(dear: Any) -> None:
    key = dear.make_key(limits={"daily_budget": 0.2})
    codes = [dear.chat(key).status_code for _ in range(12)]
    assert codes[0] == 200
    assert codes[-1] == 429
    (row,) = used(dear, key=public_id(key))
    assert 0 < row["cost"] <= 0.2
    refused = dear.chat(key)
    assert refused.json()["error"]["code"] == "insufficient_quota"
    assert int(refused.headers["Retry-After"]) <= 86_400
    poor = dear.make_key(limits={"monthly_budget": 0.0001})
    assert "lower max_tokens" in dear.chat(poor).json()["error"]["message"]


def test_what_is_left_is_said_by_whoever_is_asked_and_whenever(
    dear: Any, make_house: Callable[..., Any]
) -> None:
    key = dear.make_key(limits={"daily_budget": 0.2, "requests_per_minute": 6, "concurrency": 2})
    assert dear.chat(key).status_code == 200
    ledger = dear.services.admission.ledger
    ledger.flush()
    (row,) = used(dear, key=public_id(key))

    def left(house: Any) -> dict[str, float]:
        limits = house.ask(key, path="/v1/usage").json()["limits"]
        return {one["limit"]: one["remaining"] for one in limits}

    ledger._accounts.clear()  # as after a minute in which nobody asked
    for house in (dear, make_house()):  # and another server of the same store
        found = left(house)
        assert found["daily_budget"] == pytest.approx(0.2 - row["cost"], abs=1e-6)
        assert 5 <= found["requests_per_minute"] <= 6
        assert found["concurrency"] == 2
    assert left(dear)["daily_budget"] == found["daily_budget"]  # asking takes nothing


def test_answers_under_way_are_counted(house: Any, server: Any, request: pytest.FixtureRequest) -> None:
    request.addfinalizer(slow_down(server.engine, 0.02))
    key = house.make_key(limits={"concurrency": 2})
    ends = {str(token): -100 for token in server.engine.tokenizer.stop_ids}
    with ThreadPoolExecutor(6) as pool:
        codes = list(
            pool.map(
                lambda _: house.chat(key, json={"max_tokens": 40, "logit_bias": ends}).status_code, range(6)
            )
        )
    assert codes.count(200) == 2
    assert codes.count(429) == 4
    assert house.chat(key).status_code == 200  # they have ended


def test_limits_may_change_while_it_runs(house: Any) -> None:
    key = house.make_key(limits={"requests_per_minute": 1})
    assert [house.chat(key).status_code for _ in range(2)] == [200, 429]
    kept = house.management.access.find(Key, public_id(key))
    house.management.change_key(kept, limits={})
    assert [house.chat(key).status_code for _ in range(2)] == [200, 200]


def test_prices_are_read_again_with_the_settings(make_house: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text("[default]\nprompt = 1000.0\ncompletion = 1000.0")
    settings = ServeSettings(prices=file)
    operations = Operations(settings, source=lambda: settings)
    house = make_house(entry=Entry(prices=read_prices(file)), operations=operations)
    key = house.make_key(limits={"daily_budget": 1e9})

    def cost() -> float:
        before = sum(row["cost"] for row in used(house))
        done = house.chat(key).json()["usage"]
        return (sum(row["cost"] for row in used(house)) - before) / done["total_tokens"]

    assert cost() == pytest.approx(0.001)
    file.write_text("[default]\nprompt = 3000.0\ncompletion = 3000.0")
    assert cost() == pytest.approx(0.001)  # not before it is told to
    admin = house.make_key(role="administrator")
    assert house.ask(admin, method="POST", path="/admin/reload").status_code == 200
    assert cost() == pytest.approx(0.003)
    file.write_text("[default]\nprompt = -1")
    refused = house.ask(admin, method="POST", path="/admin/reload")
    assert refused.status_code == 400
    assert "0 or more" in refused.text
    assert cost() == pytest.approx(0.003)


def test_usage_is_written_down(dear: Any) -> None:
    dear.management.create_tenant("acme")
    keys = [dear.make_key(), dear.make_key(tenant="acme"), dear.make_key(role="administrator", tenant="acme")]
    done = [dear.chat(key).json()["usage"] for key in (keys[0], keys[1], keys[1])]
    rows = {row["key"]: row for row in used(dear)}
    ours, theirs = rows[public_id(keys[0])], rows[public_id(keys[1])]
    assert (ours["requests"], theirs["requests"], theirs["tenant"]) == (1, 2, "acme")
    assert ours["prompt_tokens"] == done[0]["prompt_tokens"]
    assert theirs["completion_tokens"] == sum(one["completion_tokens"] for one in done[1:])
    expected = PRICES.default.of(
        prompt=ours["prompt_tokens"], cached=ours["cached_tokens"], completion=ours["completion_tokens"]
    )
    assert ours["cost"] == pytest.approx(expected)
    everything = dear.ask(keys[2], path="/admin/usage?by=key,day").json()
    assert [row["key"] for row in everything["data"]] == [public_id(keys[1])]  # its own tenant's
    assert everything["total"]["requests"] == 2
    own = dear.ask(keys[0], path="/v1/usage").json()
    assert own["total"]["requests"] == 1
    assert dear.ask(keys[0], path="/admin/usage").status_code == 403
    for query in ("by=secret", "from=yesterday", "from=2026-1-1"):
        assert dear.ask(keys[0], path=f"/v1/usage?{query}").status_code == 400
    assert dear.ask(keys[2], path="/admin/usage?tenant=default").status_code == 403


def test_a_restart_gives_nothing_for_free(house: Any, make_house: Callable[..., Any]) -> None:
    key = house.make_key(limits={"requests_per_minute": 2, "daily_budget": 1})
    assert [house.chat(key).status_code for _ in range(3)] == [200, 200, 429]
    again = make_house()
    assert again.chat(key).status_code == 429


def test_deadlines(house: Any, make_house: Callable[..., Any]) -> None:
    for text in ("soon", "0", "-1", "nan", "1e9"):
        assert house.chat(headers={"x-request-timeout": text}).status_code == 400
    late = house.chat(headers={"x-request-timeout": "0.000001"})
    assert late.status_code == 504
    assert late.json()["error"]["code"] == "deadline_exceeded"
    assert house.chat(headers={"x-request-timeout": "60"}).status_code == 200
    hurried = make_house(entry=Entry(request_timeout=0.000001))
    assert hurried.chat(headers={"x-request-timeout": "60"}).status_code == 504


def test_the_queue_is_bounded_in_tokens(make_house: Callable[..., Any]) -> None:
    house = make_house(entry=Entry(max_queue_tokens=10))
    assert house.chat().status_code == 200  # alone it may wait, however long it is
    house.services.queue.enter(5)
    refused = house.chat()
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "queue_full"
    assert refused.headers["Retry-After"] == "5"
    house.services.queue.leave(5)
    assert house.chat().status_code == 200
    assert house.services.queue.tokens == 0


def test_prices_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text("[default]\nprompt = 1\n[legal]\nprompt = 2.0\ncached = 0.5\ncompletion = 8\n")
    prices = read_prices(file)
    assert prices.of("legal").of(prompt=1_000_000, cached=500_000, completion=250_000) == pytest.approx(3.25)
    assert prices.of("other").of(prompt=1_000_000, cached=1_000_000) == 1.0
    for text, message in [
        ("[x]\nprice = 1", "unknown key"),
        ("[x]\nprompt = -1", "0 or more"),
        ("x = 1", "table"),
        ("[", "prices"),
    ]:
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_prices(file)


def test_other_limits_are_refused_by_name(house: Any) -> None:
    answer = house.local.post("/admin/keys", json={"name": "x", "limits": {"request_per_minute": 1}})
    assert answer.status_code == 400
    assert "requests_per_minute" in answer.json()["error"]["message"]
