"""The report on standards: it covers all of them, cites tests that exist, and its states follow settings, policy and audit."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hanok.cli import COMMANDS, _run
from hanok.guard.grams import BITS
from hanok.guard.harm import HarmClassifier
from hanok.guard.linear import LinearDetector
from hanok.guard.policy import parse_policy
from hanok.server.assurance.checks import STATES, Facts
from hanok.server.assurance.report import STANDARDS, judged, write
from hanok.server.operations.config import ServeSettings
from hanok.store.audit.entry import Entry
from hanok.store.audit.log import AuditLog
from hanok.store.audit.place import audit_place

ROOT = Path(__file__).resolve().parents[2]
STRICT = """format = 1
[rules.secrets]
on = ["input", "output"]
[rules.personal-data]
[rules.unseen]
[rules.many-shot]
[rules.hidden-text]
[rules.egress]
[rules.spotlight]
[rules.fetch]
"""


def facts(policy: str = "format = 1\n", **changes: Any) -> Facts:
    settings = ServeSettings(**changes.pop("settings", {}))
    return Facts(settings=settings, policy=parse_policy(policy), now=1e9, **changes)


def states(given: Facts) -> dict[str, str]:
    return {row.id: row.state for row in judged(given)}


def test_every_requirement_once() -> None:
    """The numbers of AISVS 1.0: 191 requirements, 51 of level 1, 95 of level 2, 45 of level 3."""
    rows = STANDARDS["OWASP AISVS 1.0"]
    assert Counter(row.level for row in rows) == {1: 51, 2: 95, 3: 45}
    assert len({row.id for row in rows}) == 191
    chapters = Counter(row.id.split(".")[0] for row in rows)
    assert [chapters[f"C{n}"] for n in range(1, 13)] == [13, 12, 15, 14, 11, 7, 13, 11, 34, 23, 17, 21]
    numbers = [tuple(map(int, row.id[1:].split("."))) for row in rows]
    assert numbers == sorted(numbers)
    for before, after in itertools.pairwise(numbers):  # none is left out within a section
        assert after[2] == 1 or after == (*before[:2], before[2] + 1)
    assert [row.id for row in STANDARDS["OWASP Top 10 for LLM applications 2026"]] == [
        f"LLM{n:02}" for n in range(1, 11)
    ]


def test_tables_beside_the_rules_count() -> None:
    told = states(
        facts("format = 1\n[extraction]\nenabled = true\n[tenants.acme.watermark]\nenabled = true\n")
    )
    assert (told["v1.0-C11.3.1"], told["v1.0-C11.3.3"]) == ("met", "not met")
    own = facts("format = 1\n[tenants.acme.watermark]\nenabled = true\n", tenant="acme")
    assert (states(own)["v1.0-C11.3.1"], states(own)["v1.0-C11.3.3"]) == ("not met", "met")


def test_what_is_cited_exists() -> None:
    known = set(re.findall(r"\bF\d\d\b", (ROOT / "docs" / "reliability.md").read_text()))
    for standard in STANDARDS.values():
        for row in standard:
            for path in re.findall(r"(?:tests|docs|deploy)/[\w./-]+", row.answers):
                assert (ROOT / path.rstrip("/.")).exists(), f"{row.id}: {path}"
            for first, last in re.findall(r"\bF(\d\d)(?: to F(\d\d))?\b", row.answers):
                numbers = range(int(first), int(last or first) + 1)
                assert any(f"F{number:02}" in known for number in numbers) or int(first) < 10, row.id
            for command in re.findall(r"hanok ([a-z]+(?: [a-z-]+)?)", row.answers):
                assert any(name.startswith(command.split(" ")[0]) for name in COMMANDS), (
                    f"{row.id}: {command}"
                )


def test_rows_ask_what_the_standard_asks_under_their_ids() -> None:
    """Those whose neighbours ask for much the same, by a word of the frozen text."""
    words = {
        "C1.1.3": "kept and under way", "C1.1.4": "watch", "C1.1.5": "mark", "C4.2.1": "firmware", "C4.2.2": "trusted execution",
        "C4.2.3": "attest", "C4.2.4": "cleared", "C4.2.5": "interconnect", "C8.2.2": "outlying", "C8.2.3": "agents",
        "C8.2.4": "games the search", "C8.2.5": "contradictions",
    }  # fmt: skip
    asks = {row.id: row.asks for row in STANDARDS["OWASP AISVS 1.0"]}
    assert {name: word for name, word in words.items() if word not in asks[name]} == {}


@pytest.mark.parametrize(
    "row",
    ["C1.1.2", "C2.1.5", "C2.2.2", "C5.2.4", "C7.2.1", "C7.2.2", "C7.3.4", "C7.4.3", "C8.2.4", "C8.2.5"],
)
def test_what_no_rule_does_is_not_met_by_any(row: str) -> None:
    assert states(facts(STRICT + SCREEN))[f"v1.0-{row}"] == "not met"


SCREEN = """
[rules.screen]
kind = "external"
action = "block"
url = "http://127.0.0.1:1/"
on = ["input"]
"""


@pytest.mark.parametrize(
    ("more", "state"),
    [("", "met"), ('origins = ["user"]\n', "not met"), ('origins = ["user", "tool", "document"]\n', "met")],
)
def test_all_that_steers_must_be_screened(more: str, state: str) -> None:
    assert states(facts(STRICT + SCREEN + more))["v1.0-C2.1.3"] == state
    assert states(facts(STRICT))["v1.0-C2.1.3"] == "not met"
    assert states(facts(STRICT + SCREEN.replace("block", "flag") + more))["v1.0-C2.1.3"] == "not met"


@pytest.mark.parametrize(("lines", "state"), [(False, "met"), (True, "not met")])
def test_a_detector_of_documents_screens_no_users(lines: bool, state: str, tmp_path: Path) -> None:
    LinearDetector("own", np.zeros(1 << BITS, dtype=np.float32), 0.0, lines=lines).save(tmp_path)
    text = STRICT + '[rules.own]\nkind = "detector"\naction = "block"\nfile = "own.safetensors"\n'
    given = Facts(settings=ServeSettings(), policy=parse_policy(text, folder=tmp_path), now=1e9)
    assert states(given)["v1.0-C2.1.3"] == state


@pytest.mark.parametrize(
    ("kinds", "external", "state"),
    [
        (("hate",), False, "not met"), (("hate", "violence", "self-harm", "sexual/minors"), False, "met"),
        (("hate",), True, "for the operator"), ((), True, "for the operator"),
    ],
)  # fmt: skip
def test_prompts_must_be_judged_for_each_kind_of_harm(
    kinds: tuple[str, ...], external: bool, state: str, tmp_path: Path
) -> None:
    count = len(kinds)
    weights = np.zeros((1 << BITS, count), dtype=np.float32)
    HarmClassifier(kinds, weights, np.zeros(count), np.zeros(count)).save(tmp_path / "harm.safetensors")
    rule = '[rules.harm]\nfile = "harm.safetensors"\naction = "block"\n' if kinds else ""
    text = "format = 1\n" + rule + (SCREEN if external else "")
    given = Facts(settings=ServeSettings(), policy=parse_policy(text, folder=tmp_path), now=1e9)
    assert states(given)["v1.0-C2.2.1"] == state


def test_markup_that_leaves_pictures_keeps_nothing_from_asking() -> None:
    whole, links = STRICT + "[rules.markup]\n", STRICT + '[rules.markup]\nfinds = ["forms"]\n'
    assert [states(facts(text))["v1.0-C7.3.3"] for text in (whole, links)] == ["met", "not met"]


@pytest.mark.parametrize(("wrong", "state"), [(4, "met"), (5, "not met")])
def test_system_words_outrank_others_where_attacks_say_so(wrong: int, state: str) -> None:
    counts = {"tried": 40, "wrong": wrong, "blocked": 0, "errors": 0}
    families = dict.fromkeys(("override", "planted-document", "planted-tool"), counts)
    assert (
        states(facts(STRICT, attacked={"time": 1e9, "facts": {"families": families}}))["v1.0-C2.1.6"] == state
    )
    assert states(facts(STRICT))["v1.0-C2.1.6"] == "not met"


def test_a_requirement_that_nothing_answers_for_is_not_met() -> None:
    for row in judged(facts(STRICT)):
        if row.state == "met" and row.why and not row.control.answers:
            assert row.id in ("v1.0-C6.1.2", "v1.0-C11.2.5"), row.id
        assert row.why


def test_states_follow_the_policy() -> None:
    none, strict = states(facts()), states(facts(STRICT))
    for one in (
        "v1.0-C2.1.1",
        "v1.0-C2.1.8",
        "v1.0-C5.2.5",
        "v1.0-C7.3.2",
        "v1.0-C9.2.1",
        "v1.0-C9.3.7",
        "v1.0-C11.2.1",
    ):
        assert (none[one], strict[one]) == ("not met", "met"), one
    weak = states(facts(STRICT.replace("[rules.hidden-text]", '[rules.hidden-text]\naction = "flag"')))
    assert weak["v1.0-C7.3.2"] == "not met"  # it only flags
    for one in ("v1.0-C2.1.7", "v1.0-C4.1.2"):
        assert none[one] == "met"
    tenant = "format = 1\n[tenants.acme.rules.many-shot]\n"
    assert states(facts(tenant))["v1.0-C2.1.8"] == "not met"
    assert states(facts(tenant, tenant="acme"))["v1.0-C2.1.8"] == "met"


def test_states_follow_settings_and_audit() -> None:
    whole = facts(audit=True, entries={"request": 3, "request.counted": 1, "verdict": 2})
    assert states(whole)["v1.0-C12.1.1"] == "met"
    (why,) = [row.why for row in judged(whole) if row.id == "v1.0-C12.1.1"]
    assert why == "audit whole; entries: request 4"
    for other in (facts(), facts(audit=False), facts(audit=True, settings={"audit": False})):
        assert states(other)["v1.0-C12.1.1"] == "not met"
    assert states(whole)["v1.0-C12.5.3"] == "not met"  # without a mirror
    mirrored = facts(audit=True, settings={"audit_mirror": Path("elsewhere")})
    assert states(mirrored)["v1.0-C12.5.3"] == "met"
    assert states(facts(settings={"trust_loopback": True}))["v1.0-C5.2.1"] == "not met"


def test_states_follow_whose_signature_is_asked_for() -> None:
    rows = ("v1.0-C3.1.2", "v1.0-C3.1.3", "v1.0-C6.2.2", "2026-LLM04")
    told = [
        states(facts(settings=settings)) for settings in ({}, {"require_signature": (Path("maker.pub"),)})
    ]
    assert [{one[row] for row in rows} for one in told] == [{"not met"}, {"met"}]


@pytest.mark.parametrize(
    ("days", "worse", "state"), [(1, [], "met"), (40, [], "not met"), (1, ["leak"], "not met")]
)
def test_states_follow_the_nightly_attacks(days: int, worse: list[str], state: str) -> None:
    families = {"leak": {"tried": 40, "wrong": 1, "blocked": 0, "errors": 0}}
    run = {"time": 1e9 - days * 86_400, "facts": {"worse": worse, "families": families}}
    assert states(facts(attacked=run))["v1.0-C11.1.2"] == state
    assert states(facts())["v1.0-C11.1.2"] == "not met"


@pytest.mark.parametrize(("wrong", "state"), [(0, "met"), (4, "met"), (5, "not met"), (40, "not met")])
def test_attacks_that_worked_before_too_are_not_withstood(wrong: int, state: str) -> None:
    """Nothing is worse than in the run before, and still most attacks work."""
    counts = {"tried": 40, "wrong": wrong, "blocked": 0, "errors": 0}
    families = dict.fromkeys(("leak", "override", "planted-document", "planted-tool"), counts)
    run = {"time": 1e9, "facts": {"worse": [], "families": families}}
    policy = STRICT + '[rules.detector]\nkind = "external"\nurl = "http://127.0.0.1:1/"\non = ["input"]\n'
    told = states(facts(policy, attacked=run))
    assert (told["2026-LLM01"], told["2026-LLM08"]) == (state, state)
    assert told["v1.0-C11.1.2"] == "met"  # a suite is run, whatever it finds
    families.pop("leak")
    assert states(facts(policy, attacked=run))["2026-LLM08"] == "not met"


@pytest.mark.parametrize(
    ("verdict", "state"),
    [("passed", "met"), ("failed", "not met"), ("incomplete", "not met"), ("broken", "not met")],
)
def test_an_audit_of_privacy_must_have_passed(verdict: str, state: str) -> None:
    entry = {"target": "abc", "facts": {"verdict": verdict, "judged": "membership"}}
    given = facts(audit=True, entries={"privacy.audit": 1}, private=entry)
    assert states(given)["v1.0-C11.2.5"] == state
    assert states(facts(audit=True))["v1.0-C11.2.5"] == "not met"


def test_noting_who_copies_is_no_measure_and_no_cap() -> None:
    noted = states(facts("format = 1\n[extraction]\nenabled = true\n"))
    held = states(facts("format = 1\n[extraction]\nenabled = true\nquota = 300\n[logprobs]\nmost = 5\n"))
    assert [(one["v1.0-C11.3.1"], one["v1.0-C11.3.2"], one["v1.0-C11.3.4"]) for one in (noted, held)] == [
        ("met", "not met", "not met"),
        ("met", "met", "met"),
    ]


def test_calls_that_are_only_noted_are_not_held() -> None:
    weak = states(facts(STRICT.replace("[rules.egress]", '[rules.egress]\naction = "flag"')))
    assert {weak[one] for one in ("v1.0-C9.2.1", "v1.0-C9.5.1", "v1.0-C9.6.2", "2026-LLM03")} == {"not met"}


def test_page_and_json(tmp_path: Path) -> None:
    given = facts(STRICT)
    write(judged(given), given, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "v1.0-C2.1.7" in page
    assert "2026-LLM08" in page
    found = json.loads((tmp_path / "report.json").read_text())
    assert len(found["OWASP AISVS 1.0"]) == 191
    assert {row["state"] for row in found["OWASP AISVS 1.0"]} == set(STATES)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = audit_place(tmp_path / "store.db")
    with AuditLog(place) as log:
        log.append(Entry(kind="model.load", actor="server")).result()
    policy = tmp_path / "policy.toml"
    policy.write_text(STRICT)
    words = [
        "audit",
        "report",
        "--guard",
        str(policy),
        "--store",
        str(tmp_path / "store.db"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert _run([*words, "--json"]) == 0
    said = {one["id"]: one for one in json.loads(capsys.readouterr().out)["controls"]}
    assert said["v1.0-C12.4.3"]["state"] == "met"
    assert "model 1" in said["v1.0-C12.4.3"]["why"]
    data = place.folder / "log.sqlite"
    raw = data.read_bytes()
    data.write_bytes(raw.replace(b"model.load", b"model.lost"))  # somebody changes the log
    assert _run([*words, "--json"]) == 0
    said = {one["id"]: one for one in json.loads(capsys.readouterr().out)["controls"]}
    assert said["v1.0-C12.4.3"]["state"] == "not met"
    assert _run(["audit", "report", "--guard", str(tmp_path / "none.toml")]) == 2
