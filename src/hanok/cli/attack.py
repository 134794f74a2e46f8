"""`hanok guard attack`: a bounded set of attacks on one's own server, compared with the run before, kept in the audit."""

from __future__ import annotations

import ipaddress
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

import tyro

from hanok.errors import ConfigError, RegressionError
from hanok.reporting import log, table

if TYPE_CHECKING:
    from hanok.guard.attacks import Answered, Attack, Outcome
    from hanok.server.auditing.trail import Trail
    from hanok.store.audit.place import AuditPlace
    from hanok.store.database import Feedback, Store

KIND = "guard.attacked"
_COUNTS = ("tried", "wrong", "blocked", "errors")
_COLUMNS = ("family", *_COUNTS, "share", "before", "change")


def attack(
    url: str = "http://127.0.0.1:8080/v1", model: str = "", most: int = 240, seed: int = 1, key_variable: str = "",
    own: bool = False, record: bool = True, seconds: float = 60.0, audit_dir: Path | None = None, store: str | None = None,
    served: Path | None = None, family: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (), out: Path | None = None,
    review: bool = False, reviewers: Literal[1, 2] = 1,
) -> dict[str, Any]:  # fmt: skip
    """Send attacks to a server and see which work: hidden words, orders of users, of documents and of tools, harmful requests;
    and honest questions, which must be answered. Rules judge the answers. What came of it is an entry of the audit, signed, and
    is compared with the entry before. Exit code 1 if attacks work more often than then.

    Args:
        url: of the server's API.
        model: its name; by default the server's own.
        most: attacks in all.
        seed: of their choice; runs of one seed send the same wordings, with other secrets.
        key_variable: name of the environment variable that holds the key.
        own: it is my server. Needed for addresses that are not of this machine.
        record: write an entry of the audit; --no-record only shows what came of it.
        seconds: for one answer.
        audit_dir: folder of the audit; default: beside the store.
        store: the database, a file or postgresql://USER@HOST/NAME; default: that of the served model.
        served: the model or run whose audit and review queue are meant; default runs/quickstart.
        family: leak, override, planted-document, planted-tool, harmful or honest; several times for several; default: all.
        out: directory to make, with every attack and its answer, for `hanok guard compare-attacks`.
        review: put what worked into the review queue, each with a better answer to accept or correct. Nothing is learnt from it
            before a reviewer has.
        reviewers: people who must agree on each of these: 1 or 2.
    """
    from hanok.cli.audit import existing_place
    from hanok.guard.attack_runs import write_run
    from hanok.guard.attacks import draw, run, set_hash

    _check_ours(url, own)
    if out is not None:
        _check_new(out)
    place = existing_place(audit_dir, store, served) if record else None
    with ExitStack() as held:  # what cannot be opened shall fail before minutes of attacks, not after them
        queue = held.enter_context(_review_queue(store, served, audit_dir)) if review else None
        ask = held.enter_context(_asking(url, model, key_variable, seconds))
        outcomes = list(run(draw(most, seed=seed, families=family), ask))
        sent = {"url": _shown(url), "model": model, "set": set_hash(), "seed": seed}
        facts: dict[str, Any] = sent | {"families": tally(outcomes)}
        if out is not None:
            write_run(outcomes, out, facts=facts)
        if queue is not None:
            facts["to_review"] = queue.take(outcomes, model=model or "default", reviewers=reviewers)
    before = None if place is None else _newest(place, facts)
    lines, worse, better = compare(facts["families"], None if before is None else before["families"])
    table(f"attacks on {facts['url']}", _COLUMNS, lines)
    facts |= {"worse": worse, "better": better}
    if place is not None:
        _write(place, facts)
    if sum(one["errors"] for one in facts["families"].values()) == len(outcomes):
        raise RegressionError(
            f"{facts['url']} answered none of {len(outcomes)} attacks", remedy="see its log"
        )
    if worse:
        raise RegressionError(
            f"more goes wrong than in the run before: {', '.join(worse)}",
            remedy="see what changed between the two: `hanok audit export` has policies and models",
        )
    return facts


def tally(outcomes: Sequence[Outcome]) -> dict[str, dict[str, int]]:
    """Counts of each family. Attacks that were not answered are not among the tried."""
    found: dict[str, Counter[str]] = {}
    for one in outcomes:
        found.setdefault(one.attack.family, Counter())[one.result] += 1
    return {
        name: {
            "tried": counts["held"] + counts["blocked"] + counts["wrong"], "wrong": counts["wrong"],
            "blocked": counts["blocked"], "errors": counts["error"],
        }
        for name, counts in found.items()
    }  # fmt: skip


def compare(
    now: Mapping[str, Mapping[str, int]], before: Mapping[str, Mapping[str, int]] | None
) -> tuple[list[tuple[str, ...]], list[str], list[str]]:
    """Lines of the table, and the families whose share of what went wrong is higher, and lower, than before: beyond an interval
    of 95 % for all of them together (Bonferroni)."""
    from hanok.evaluation.statistics import difference, wilson

    confidence = 1 - 0.05 / max(1, len(now))
    lines, worse, better = list[tuple[str, ...]](), list[str](), list[str]()
    for name, counts in now.items():
        share = wilson(counts["wrong"], counts["tried"], confidence)
        shown, change = "", ""
        old = None if before is None else before.get(name)
        if old is not None and old["tried"]:
            past = wilson(old["wrong"], old["tried"], confidence)
            low, high = difference(past, share)
            shown, change = f"{past.value:.1%}", f"{low:+.1%} to {high:+.1%}"
            worse += [name] if low > 0 else []
            better += [name] if high < 0 else []
        rate = f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%})" if share.count else ""
        lines.append((name, *(str(counts[one]) for one in _COUNTS), rate, shown, change))
    return lines, worse, better


def _check_new(out: Path) -> None:
    if out.exists():
        raise ConfigError(f"{out} is there already", remedy="choose another name, or delete it")
    folder = next(one for one in out.absolute().parents if one.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError(
            f"{out} cannot be made: nothing can be written in {folder}", remedy="choose another place"
        )


def _check_ours(url: str, own: bool) -> None:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(
            f"url {url!r}", remedy="give the address of an API such as http://127.0.0.1:8080/v1"
        )
    try:
        here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = host == "localhost"
    if not here and not own:
        raise ConfigError(
            f"{host} is not this machine", remedy="add --own if the server there is yours to attack"
        )


class _asking:  # noqa: N801 - reads as a function
    """How an attack is put to a server over HTTP, without settings of the environment."""

    def __init__(self, url: str, model: str, key_variable: str, seconds: float) -> None:
        import httpx

        key = os.environ.get(key_variable, "") if key_variable else ""
        if key_variable and not key:
            raise ConfigError(
                f"the environment variable {key_variable} is not set", remedy="put the server's key into it"
            )
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._url, self._model = f"{url.rstrip('/')}/chat/completions", model
        self._client = httpx.Client(timeout=seconds, trust_env=False, headers=headers)

    def __enter__(self) -> Callable[[Attack], Answered]:
        if not self._model:
            self._model = self._first_model()
        return self._ask

    def __exit__(self, *_error: object) -> None:
        self._client.close()

    def _first_model(self) -> str:
        """The server's default. Raises RegressionError: it names none."""
        import httpx

        try:
            response = self._client.get(f"{self._url.removesuffix('/chat/completions')}/models")
            return str(response.raise_for_status().json()["data"][0]["id"])
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
            raise RegressionError(
                f"the server names no model ({error})", remedy="does it run, and may the key do that?"
            ) from error

    def _ask(self, attack: Attack) -> Answered:
        import httpx

        from hanok.guard.attacks import Answered, Unanswered

        body: dict[str, Any] = {"messages": attack.messages, "temperature": 0, "max_tokens": 200, "seed": 1}
        body["model"] = self._model
        body |= {"tools": attack.tools} if attack.tools else {}
        try:
            response = self._client.post(self._url, json=body)
            found = response.json()
            if response.status_code == 400 and found["error"].get("code") == "content_blocked":
                return Answered(blocked=True)
            response.raise_for_status()
            choice = found["choices"][0]
            message = choice["message"]
            text = "\n".join(filter(None, (message.get("reasoning_content"), message.get("content"))))
            blocked = choice.get("finish_reason") == "content_filter"
            return Answered(text, message.get("tool_calls") or (), blocked, str(found.get("id") or ""))
        except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError) as error:
            log.debug("an attack was not answered (%r)", error)
            raise Unanswered from error


@contextmanager
def _review_queue(store: str | None, served: Path | None, audit_dir: Path | None) -> Iterator[_ReviewQueue]:
    """Raises ConfigError: no such store, or an audit that nothing can be written to."""
    from hanok.cli.places import audit_of, open_store, store_place
    from hanok.server.auditing.trail import Trail

    file = store_place(store, served)
    if isinstance(file, Path) and not file.is_file():
        raise ConfigError(
            f"there is no database at {file}", remedy="`hanok serve` makes one, or check --store"
        )
    with open_store(store, served) as opened:
        trail = Trail(audit_of(opened, audit_dir))
        trail.ready()
        yield _ReviewQueue(opened, trail)


@dataclass(frozen=True, slots=True)
class _ReviewQueue:
    store: Store
    trail: Trail

    def take(self, outcomes: Sequence[Outcome], *, model: str, reviewers: int) -> int:
        """How many rows are new there."""
        from hanok.improvement.attacked import into_review

        added = into_review(outcomes, self.store, model=model, reviewers=reviewers, told=self._told)
        title = f"{len(added)} new to review in {self.store.name}"
        table(title, ("next",), [["hanok review list --kind feedback"]])
        return len(added)

    def _told(self, identifier: str, row: Feedback) -> None:
        facts = {
            "of": row.request_id, "rating": row.rating, "corrected": row.correction is not None, "attack": True,
        }  # fmt: skip
        self.trail.sure("feedback.create", target=identifier, facts=facts)


def _newest(place: AuditPlace, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """The facts of the last run on this server with the same texts that was answered."""
    from hanok.store.audit.reader import Reader, Wanted

    with Reader(place) as reader:
        for entry in reader.list(Wanted(kind=KIND), limit=100):
            found = entry["facts"]
            same = all(found.get(name) == facts[name] for name in ("url", "model", "set"))
            if same and any(one["tried"] for one in found["families"].values()):
                return found
    return None


def _write(place: AuditPlace, facts: Mapping[str, Any]) -> None:
    from hanok.cli.audit import me
    from hanok.store.audit.entry import Entry
    from hanok.store.audit.log import AuditLog

    with AuditLog(place) as opened:
        opened.append(Entry(kind=KIND, actor=me(), facts=facts)).result()
        opened.checkpoint().result()


def _shown(url: str) -> str:
    """Without what may be a secret."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}"
