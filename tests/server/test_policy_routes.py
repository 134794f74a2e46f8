"""The policy over HTTP: who sees what of it, what an edited text would do, and what it takes to put it in force."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from watched import POLICY, watched

from hanok.guard.grams import BITS
from hanok.guard.linear import LinearDetector
from hanok.guard.lines import line_of
from hanok.guard.policy import PolicyError, hash_of, parse_policy, read_policy
from hanok.guard.written import rules_text

KEY = "AKIAQWERTYUIOPASDF27"
PATH, TRY = "/admin/policy", "/admin/policy/try"


@pytest.fixture(autouse=True)
def as_it_was(watched: Any) -> Any:
    """Each test begins with the same policy in force."""
    watched.policy.write_text(POLICY, encoding="utf-8")
    watched.services.guard.take(type(watched.services.guard).open(str(watched.policy)))


def test_the_house_sees_all_of_it_and_a_tenant_its_own_rules(watched: Any) -> None:
    with watched.as_("boss") as http:
        whole = http.get(PATH).json()
        assert (whole["text"], whole["hash"], whole["kind"], whole["source"]) == (
            POLICY, hash_of(POLICY), "file", "policy.toml",
        )  # fmt: skip
        assert whole["editable"] is True
        assert whole["tenants"] == ["acme"]
        assert "words" in {rule["name"] for rule in whole["rules"]}
        acme = http.get(PATH, params={"tenant": "acme"}).json()
        assert "words" not in {rule["name"] for rule in acme["rules"]}
    with watched.as_("ada") as http:
        own = http.get(PATH).json()
        assert own["tenant"] == "acme"
        assert "tenants" not in own["text"]
        assert parse_policy(own["text"]).rules == watched.services.guard.policy.of("acme")
        assert own["editable"] is False
        assert http.get(PATH, params={"tenant": "default"}).status_code == 403
        assert http.put(PATH, json={"policy": own["text"], "hash": own["hash"]}).status_code == 403
        assert http.post(TRY, json={"tenant": "default", "text": "x"}).status_code == 403
    for name in ("rita", "yuna"):
        with watched.as_(name) as http:
            assert http.get(PATH).status_code == 403
            assert http.post(TRY, json={"text": "x"}).status_code == 403
    assert watched.policy.read_text(encoding="utf-8") == POLICY


def test_an_edited_policy_is_tried_and_changes_nothing(watched: Any) -> None:
    text = f"🏮 My key is {KEY}: open sesame."
    with watched.as_("boss") as http:
        live = http.post(TRY, json={"text": text}).json()
        assert live["input"]["action"] == "block"
        assert [(one["rule"], one["span"]) for one in live["output"]["findings"]] == [("secrets", [12, 32])]
        assert live["output"]["text"] == "🏮 My key is [SECRET]: open sesame."
        edited = POLICY.replace('action = "block"', 'action = "flag"', 1)
        tried = http.post(TRY, json={"policy": edited, "text": text}).json()
        assert (tried["problem"], tried["input"]["action"]) == (None, "redact")
        spared = http.post(TRY, json={"policy": POLICY, "text": text, "tenant": "acme"}).json()
        assert [one["rule"] for one in spared["input"]["findings"]] == ["secrets"]
        hidden = {
            "policy": "format = 1\n[rules.hidden-text]",
            "text": "one two three four five six seven eight nine",
        }
        assert http.post(TRY, json=hidden).json()["output"]["action"] == "allow"
        assert http.post(TRY, json={**hidden, "hidden": hidden["text"]}).json()["output"]["action"] == "block"
        said = watched.chat(http, "open sesame", "never")
        assert said.json()["error"]["code"] == "content_blocked"  # still in force


WRONG = [
    ("format = 1\n[rules.secrets]\naction = 'shout'\n", 3, "rules.secrets.action"),
    ("format = 1\n\n[rules.secrets]\nactoin = 'flag'\n", 4, "rules.secrets.actoin"),
    ("format = 1\n[rules.x]\nkind = 'magic'\n", 3, "rules.x.kind"),
    ("format = 1\n[rules.magic]\n", 2, "rules.magic.kind"),
    ("format = 1\n[rules.phrases]\n# none\n", 2, "rules.phrases"),
    ("format = 2\n", 1, "format"),
    ("format = 1\n[rules.secrets\n", 2, ""),
    ("format = 1\n[rules.secrets]\n[tenants.acme.rules.secrets]\nbudget_ms = 0\n", 4, "tenants.acme.rules.secrets.budget_ms"),
    ("format = 1\n[rules.a]\nkind='size'\ndepth = 9\n[tenants.b.rules.a]\ndepth = 0\n", 6, "tenants.b.rules.a.depth"),
    ("format = 1\n[rules.a]\nkind='size'\ndepth = 0\n[tenants.b.rules.a]\nfail = 'flag'\n", 4, "rules.a.depth"),
    ("format = 1\nnotes = 1\n", 2, "notes"),
    ('format = 1\n[rules.phrases]\nphrases = ["""\nkind = 1\n"""]\non = ["up"]\n', 6, "rules.phrases.on"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "key"), WRONG)
def test_what_is_wrong_is_told_with_its_line(watched: Any, text: str, line: int, key: str) -> None:
    with watched.as_("boss") as http:
        tried = http.post(TRY, json={"policy": text, "text": "x"}).json()
        assert (tried["problem"]["line"], tried["problem"]["key"]) == (line, key), tried["problem"]
        assert tried["input"] is tried["output"] is None
        refused = http.put(PATH, json={"policy": text, "hash": hash_of(POLICY)})
        error = refused.json()["error"]
        assert (refused.status_code, error["code"], error["line"]) == (400, "invalid_policy", line)
    assert watched.policy.read_text(encoding="utf-8") == POLICY
    assert watched.services.guard.policy.hash == hash_of(POLICY)


def test_a_line_is_sought_where_the_value_stands() -> None:
    text = "format = 1\n[rules.x]\nkind = 'size'\n[tenants.b.rules.y]\nkind = 'size'\n"
    assert line_of(text, "tenants.b.rules.x.kind") == 3  # what the house says, and the tenant inherits
    assert line_of(text, "tenants.b.rules.y.depth") == 4
    assert line_of("format = 1\n[rules.x]\nfail = 0\n[tenants.b.rules.x]\n", "tenants.b.rules.x.fail") == 3
    assert line_of(text, "rules.z.kind") is None
    with pytest.raises(PolicyError) as wrong:
        parse_policy("[rules]\n")
    assert wrong.value.line is None


def test_saving_writes_the_file_and_puts_it_in_force(watched: Any) -> None:
    os.chmod(watched.policy, 0o640)
    new = POLICY.replace("open sesame", "close sesame")
    with watched.as_("boss") as http:
        saved = http.put(PATH, json={"policy": new, "hash": hash_of(POLICY)})
        assert saved.status_code == 200
        assert saved.json()["hash"] == hash_of(new)
        assert watched.policy.read_text(encoding="utf-8") == new
        assert stat.S_IMODE(watched.policy.stat().st_mode) == 0o640
        assert list(watched.policy.parent.glob(".*.tmp")) == []
        assert watched.chat(http, "open sesame", "fine").json()["choices"][0]["message"]["content"] == "fine"
        assert watched.chat(http, "close sesame", "fine").status_code == 400
        (entry,) = http.get("/v1/audit", params={"kind": "policy", "limit": 1}).json()["data"]
        who = http.get("/session").json()["principal"]["id"]
    assert (entry["kind"], entry["actor"]) == ("policy.change", who)
    assert entry["facts"]["before"]["policy"]["hash"] == hash_of(POLICY)
    assert entry["facts"]["now"]["policy"] == {"source": "policy.toml", "hash": hash_of(new)}


def test_a_file_that_was_changed_meanwhile_is_not_overwritten(watched: Any) -> None:
    theirs = POLICY + "\n# theirs\n"
    watched.policy.write_text(theirs, encoding="utf-8")
    with watched.as_("boss") as http:
        body = {"policy": POLICY + "\n# mine\n", "hash": hash_of(POLICY)}
        refused = http.put(PATH, json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "version_conflict")
        assert refused.json()["error"]["hash"] == hash_of(theirs)
        assert watched.policy.read_text(encoding="utf-8") == theirs
        shown = http.get(PATH).json()
        assert (shown["text"], shown["on_disk"]) == (POLICY, {"text": theirs, "hash": hash_of(theirs)})
        assert http.put(PATH, json={**body, "hash": hash_of(theirs)}).status_code == 200  # having seen it
    assert watched.policy.read_text(encoding="utf-8").endswith("# mine\n")


@pytest.mark.parametrize(
    "body",
    [
        {"policy": "x" * 200_001, "hash": "0" * 64}, {"policy": "x", "hash": "0"}, {"policy": "x"},
        {"policy": "x", "hash": "0" * 64, "more": 1},
    ],
)  # fmt: skip
def test_bodies_are_strict(watched: Any, body: dict[str, Any]) -> None:
    with watched.as_("boss") as http:
        assert http.put(PATH, json=body).status_code == 400
        assert http.post(TRY, json={**body, "text": "x" * 20_001}).status_code == 400
        assert http.post(TRY, json={"text": "x", "origin": "nobody"}).status_code == 400
    assert watched.policy.read_text(encoding="utf-8") == POLICY


def test_a_tenant_reaches_no_other_files_and_servers(watched: Any) -> None:
    folder = watched.policy.parent
    for name in ("own", "other"):
        LinearDetector(name, np.zeros(1 << BITS, dtype=np.float32), 0.0).save(folder)
    told = POLICY + "\n[tenants.acme.rules.orders]\nkind = 'detector'\nfile = 'own.safetensors'\n"
    watched.policy.write_text(told, encoding="utf-8")
    watched.services.guard.take(type(watched.services.guard).open(str(watched.policy)))
    with watched.as_("ada") as http:
        own = http.get(PATH).json()["text"]
        assert 'file = "own.safetensors"' in own
        assert str(folder) not in own
        assert http.post(TRY, json={"policy": own, "text": "x"}).json()["problem"] is None
        line = own[: own.index("file =")].count("\n") + 1
        for name in ("other.safetensors", "../policy.toml", "/etc/passwd", "none.safetensors"):
            elsewhere = own.replace('"own.safetensors"', f'"{name}"')
            problem = http.post(TRY, json={"policy": elsewhere, "text": "x"}).json()["problem"]
            assert (problem["remedy"], problem["line"]) == ("the house chooses what rules reach", line), name
        others = http.post(TRY, json={"policy": own + "\n[tenants.x.rules.secrets]\n"}).json()["problem"]
        assert others["key"] == "tenants"
        for rule in (
            "[rules.external]\nurl = 'http://127.0.0.1:1/'\n",
            "[rules.y]\nkind = 'external'\nurl = 'http://x.example'\n",
        ):
            assert (
                http.post(TRY, json={"policy": own + rule, "text": "x"})
                .json()["problem"]["key"]
                .endswith("url")
            )
    with watched.as_("boss") as http:
        changed = told.replace("own.s", "other.s")
        assert http.post(TRY, json={"policy": changed, "text": "x"}).json()["problem"] is None


def test_without_a_file_it_is_read_and_tried_and_not_saved(random_run: Path, tmp_path: Path) -> None:
    with watched(random_run / "model", tmp_path, policy=None) as server, server.as_("boss") as http:
        shown = http.get(PATH).json()
        assert (shown["kind"], shown["editable"], shown["source"]) == ("default", False, None)
        assert "[rules.secrets]" in shown["text"]
        assert "--guard policy.toml" in shown["why_not"]
        refused = http.put(PATH, json={"policy": shown["text"], "hash": shown["hash"]})
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "no_policy_file")
        assert http.post(TRY, json={"text": f"It is {KEY}."}).json()["output"]["action"] == "redact"


def test_rules_written_out_are_the_same_rules(tmp_path: Path) -> None:
    text = """
    format = 1
    ["rules"."no \\"names\\""]
    kind = "phrases"
    phrases = ["한옥", 'a "b"', "back\\\\slash"]
    tell = false
    budget_ms = 80
    [rules.egress]
    hosts = ["*.example.org"]
    always = true
    fail = "flag"
    [rules.hidden-text]
    canaries = ["juniper-lantern"]
    run = 6
    [rules.personal-data]
    kinds = ["EMAIL"]
    action = "flag"
    on = ["input"]
    [rules.external]
    url = "http://127.0.0.1:9/v1"
    timeout = 0.5
    categories = { S1 = "block", "a b" = "flag" }
    """
    policy = parse_policy(text)
    written = rules_text(policy.rules)
    assert "juniper" not in written  # a secret of the house
    again = {rule.name: rule for rule in parse_policy(written).rules}
    for rule in policy.rules:
        if rule.kind != "hidden-text":
            assert again[rule.name] == rule
    assert again["hidden-text"].options == {"run": 6}
    assert parse_policy(rules_text(())).rules == ()
    assert parse_policy(rules_text(read_policy("default").rules)).rules == read_policy("default").rules
