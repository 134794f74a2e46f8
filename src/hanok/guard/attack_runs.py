"""Runs of attacks on the disk: what was sent, what came back, what it was judged to be. Kind "attacks".

attacks.jsonl   {id, family, language, disguise, goal, result, messages, tools, text, calls, answer}; `answer` is its id
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hanok.artefacts import Artefact, create_artefact, open_artefact, read_jsonl, write_jsonl
from hanok.errors import InputError
from hanok.guard.attacks import Outcome

FILE = "attacks.jsonl"


def write_run(outcomes: Sequence[Outcome], out: Path, *, facts: Mapping[str, Any]) -> Artefact:
    """Args: facts: url, model, set and seed, which are compared, and what else tells of the run."""
    with create_artefact(out, kind="attacks", step=facts) as draft:
        write_jsonl(draft.path / FILE, map(_row, outcomes))
    return open_artefact(out, kind="attacks")


def paired(before: Path, after: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Rows of the same attack in two runs that were answered in both.

    Raises:
        InputError: runs of other texts, or without an attack in common. ArtefactError: no runs.
    """
    runs = [open_artefact(place, kind="attacks") for place in (before, after)]
    if len({run.step["set"] for run in runs}) > 1:
        raise InputError("the runs sent different texts", remedy="run both with one version of hanok")
    first, second = ({row["id"]: row for row in read_jsonl(run.path / FILE)} for run in runs)
    found = [(first[name], second[name]) for name in first if name in second]
    found = [pair for pair in found if "error" not in (pair[0]["result"], pair[1]["result"])]
    if not found:
        raise InputError(
            "no attack was answered in both runs", remedy="give both the same --seed, --most and --family"
        )
    return found


def _row(outcome: Outcome) -> dict[str, Any]:
    attack, answer = outcome.attack, outcome.answer
    said = {} if answer is None else {"text": answer.text, "calls": list(answer.calls), "answer": answer.id}
    return {
        "id": attack.id, "family": attack.family, "language": attack.language, "disguise": attack.disguise, "goal": attack.goal,
        "result": outcome.result, "messages": list(attack.messages), "tools": attack.tools and list(attack.tools), **said,
    }  # fmt: skip
