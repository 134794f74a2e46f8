"""POST /v1/moderations: the policy's own kinds of harm and rules, as OpenAI's client reads them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from tests.support.classifier_server import classifier as classifier_server
from tests.support.classifier_server import minds

from hanok.guard.grams import BITS, hashed
from hanok.guard.harm import HarmClassifier
from hanok.guard.policy import parse_policy
from hanok.guard.rulebook import Guard
from hanok.server.routes.moderations import MOST_CHARACTERS, NAMES

KEY = "AKIAQWERTYUIOPASDF27"
THREAT, SCORN = "soon they will hurt you badly", "everybody there is a worthless fool"
POLICY = """
format = 1
[rules.secrets]
[rules.noted]
kind = "phrases"
phrases = ["lantern"]
[rules.quiet]
kind = "phrases"
phrases = ["candle"]
tell = false
[rules.harm]
file = "harm.safetensors"
actions = { violence = "block", scorn = "allow" }
"""


def classifier() -> HarmClassifier:
    """Of `violence` and `scorn`, by the n-grams of one sentence each."""
    weights = np.zeros((1 << BITS, 2), dtype=np.float32)
    for column, text in enumerate((THREAT, SCORN)):
        weights[hashed(text), column] = 1.0
    return HarmClassifier(("violence", "scorn"), weights, -2 * np.ones(2), np.zeros(2))


@pytest.fixture
def server(scripted: Any, tmp_path: Path) -> Any:
    classifier().save(tmp_path / "harm.safetensors")
    return scripted(Guard(parse_policy(POLICY, folder=tmp_path)))


@pytest.fixture
def moderate(server: Any) -> Callable[..., Any]:
    """The official client's answer."""
    client = openai.AsyncOpenAI(
        base_url="http://127.0.0.1/v1", api_key="none", http_client=server.client, max_retries=0
    )
    return lambda **asked: server.loop.run_until_complete(client.moderations.create(**asked))


def test_kinds_of_harm_have_their_probability(moderate: Callable[..., Any]) -> None:
    answer = moderate(model="omni-moderation-latest", input=[THREAT, SCORN, "I drink tea."])
    assert answer.model == "omni-moderation-latest"
    assert answer.id.startswith("modr-")
    threat, scorn, tea = answer.results
    assert (threat.flagged, scorn.flagged, tea.flagged) == (True, False, False)
    assert threat.categories.violence is True
    assert threat.category_scores.violence == pytest.approx(
        1 / (1 + math.exp(2 - math.sqrt(len(hashed(THREAT))))), abs=0.05
    )
    assert tea.categories.violence is False
    assert tea.category_scores.violence < 0.3
    assert (
        scorn.categories.model_extra["scorn"] is False
    )  # the policy lets it pass, and says how much of it there is
    assert scorn.category_scores.model_extra["scorn"] > 0.7
    assert threat.categories.hate is None  # nothing here judges it, so nobody is told that it is not there
    assert threat.category_scores.hate is None
    assert (threat.category_applied_input_types.violence, threat.category_applied_input_types.hate) == (
        ["text"],
        [],
    )


def test_other_rules_are_categories_by_their_names(moderate: Callable[..., Any]) -> None:
    (found,) = moderate(input=f"the key {KEY} hangs on the lantern").results
    extra = found.categories.model_extra
    assert found.flagged
    assert (extra["secrets"], extra["noted"], found.categories.violence) == (True, True, False)
    assert found.category_scores.model_extra["secrets"] == 1.0
    (plain,) = moderate(input="I drink tea.").results
    assert not plain.flagged
    assert plain.categories.model_extra["secrets"] is False


@pytest.mark.parametrize("place", [7_595, 7_990, 19_900])
def test_long_texts_are_read_to_their_end(moderate: Callable[..., Any], place: int) -> None:
    """Wherever it lies in the pieces that they are read in."""
    tea = "We drink tea. " * 1_430
    (found,) = moderate(input=f"{tea[:place]} {KEY} {tea[place:]}"[:20_000]).results
    assert found.categories.model_extra["secrets"] is True
    (plain,) = moderate(input=tea).results
    assert not plain.flagged


def test_a_rule_is_heard_behind_one_that_blocks(scripted: Any) -> None:
    policy = (
        'format = 1\n[rules.secrets]\n[rules.end]\nkind = "phrases"\nphrases = ["the end"]\n'
        'on = ["output"]\naction = "block"\n'
    )
    (found,) = scripted(policy).post("/v1/moderations", {"input": f"the end, and {KEY}"}).json()["results"]
    assert (found["categories"]["end"], found["categories"]["secrets"]) == (True, True)


def test_a_silent_rule_stays_silent(moderate: Callable[..., Any]) -> None:
    for text in ("a candle", "a chair"):
        (found,) = moderate(input=text).results
        assert not found.flagged
        assert "quiet" not in found.to_dict()["categories"]


@pytest.mark.parametrize(("fail", "told"), [("flag", False), ("closed", True)])
def test_a_silent_rule_that_fails_is_told_of_if_it_blocks(
    scripted: Any, tmp_path: Path, fail: str, told: bool
) -> None:
    broken = classifier()
    broken.weights[hashed(THREAT), 0] = np.nan
    broken.save(tmp_path / "harm.safetensors")
    policy = f'format = 1\n[rules.harm]\nfile = "harm.safetensors"\nfail = "{fail}"\ntell = false\n'
    server = scripted(Guard(parse_policy(policy, folder=tmp_path)))
    (found,) = server.post("/v1/moderations", {"input": THREAT}).json()["results"]
    assert (found["flagged"], "harm" in found["categories"]) == (told, told)


def test_parts_are_one_input(moderate: Callable[..., Any], server: Any) -> None:
    parts = [{"type": "text", "text": "tea"}, {"type": "text", "text": KEY}]
    (found,) = moderate(input=parts).results
    assert found.flagged
    with pytest.raises(openai.BadRequestError, match="no rule of this server reads images"):
        moderate(input=[{"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}])
    for wrong in ([], [1], {"a": 1}, None, [{"type": "film"}]):
        assert server.post("/v1/moderations", {"input": wrong}).status_code == 400, wrong
    long = server.post("/v1/moderations", {"input": "x" * (MOST_CHARACTERS + 1)})
    assert (long.status_code, long.json()["error"]["code"]) == (400, "input_too_long")


def test_a_classifier_elsewhere_is_asked_once_for_each_text(scripted: Any) -> None:
    """And one that does not answer is a finding, as its fail mode says."""
    with classifier_server(minds("bomb")) as remote:
        server = scripted(f'format = 1\n[rules.elsewhere]\nkind = "external"\nurl = "{remote.url}"\n')
        found = server.post("/v1/moderations", {"input": ["a bomb", "a tea"]}).json()["results"]
        assert [one["categories"]["elsewhere"] for one in found] == [True, False]
        assert len(remote.asked) == 2
        remote.answer = lambda _path, _body: 500
        (failed,) = server.post("/v1/moderations", {"input": "a cup"}).json()["results"]
        assert failed["flagged"] is True


def test_no_rules_mind_nothing(scripted: Any) -> None:
    (found,) = scripted("format = 1").post("/v1/moderations", {"input": [THREAT]}).json()["results"]
    assert found["flagged"] is False
    assert found["categories"] == dict.fromkeys(NAMES)


def test_it_is_counted_and_changes_nothing(server: Any, moderate: Callable[..., Any]) -> None:
    """Neither a verdict on an answer nor a row to review comes of it; the request is one of the server's."""
    moderate(input=THREAT)
    assert server.events == []
    told = [line for line in server.get("/metrics").text.splitlines() if 'route="moderations"' in line]
    assert any(line.startswith("hanok_requests_total") and line.endswith(" 1.0") for line in told), told
