"""`hanok data judge`: preferences from a judge, each pair in both orders, with what the labels are worth.

    preferences.jsonl   decided pairs: {id, prompt, chosen, rejected, source, licence, annotator, reason, probability, subset}
    ties.jsonl          pairs whose two orders disagree, or that the judge calls equal: kept, and no preference
    judgements.jsonl    everything: both verdicts with their reasons, and failures
    report.html, report.json

A verdict that depends on the order is none: where the two orders name different answers the pair is a tie. A judge that
always prefers the first thus labels nothing, and no preference.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hanok.artefacts import Artefact, create_artefact, open_artefact, sha256_file, write_jsonl
from hanok.chat import ChatModel, Message, Sampling
from hanok.errors import ArtefactError, ChatError
from hanok.evaluation.agreement import cohen_kappa
from hanok.evaluation.statistics import wilson
from hanok.improvement.judging.agreement import position_bias
from hanok.improvement.judging.config import JudgeConfig
from hanok.improvement.judging.judge import PairJudge
from hanok.improvement.judging.page import write_page
from hanok.improvement.judging.rows import PairRow, digest, read_pair_rows
from hanok.improvement.judging.work import Record, ask_all, forget, key_of

VERDICTS = {1: "first", 2: "second", 0: "tie"}


def judge_pairs(
    config: JudgeConfig, judge: PairJudge, files: Sequence[Path], out: Path, *, sampler: ChatModel | None = None,
    lineage: Mapping[str, Artefact] | None = None, rules: str = "",
) -> Artefact:  # fmt: skip
    """Kind "preferences".

    Args:
        files: pairs; with a `sampler`, prompts whose answers it is asked for.
        lineage: artefacts behind judge and sampler. rules: hash of the constitution.

    Raises:
        InputError: rows that are not well formed, or a judge that fails throughout. ConfigError: `out` is taken.
    """
    if out.exists():
        raise ArtefactError(f"{out} already exists", remedy="choose another output directory or remove it")
    rows = read_pair_rows(files, drawn=sampler is not None, source=config.source, licence=config.licence)
    out.parent.mkdir(parents=True, exist_ok=True)
    step: dict[str, Any] = {
        "config": dataclasses.asdict(config), "judge": judge.name, "constitution": rules,
        "sampler": sampler.name if sampler else "", "data": {file.name: sha256_file(file) for file in files},
    }  # fmt: skip
    ask = _asker(config, judge, sampler)
    done = ask_all(rows, ask, out=out, key=key_of(step), config=config, title="pairs")
    judged = [_judged(row, done[row.id], config.decided_beyond()) for row in rows]
    with create_artefact(out, kind="preferences", parents=lineage, step=step) as draft:
        write_jsonl(draft.path / "judgements.jsonl", judged)
        by_id = {row.id: row for row in rows}
        preferences = [
            _preference(by_id[one["id"]], one, judge.name)
            for one in judged
            if one["verdict"] in ("first", "second")
        ]
        write_jsonl(draft.path / "preferences.jsonl", preferences)
        write_jsonl(draft.path / "ties.jsonl", [one for one in judged if one["verdict"] == "tie"])
        draft.metrics |= measures(judged)
        write_page(judged, draft.metrics, draft.path, judge=judge.name)
    forget(out)
    return open_artefact(out)


def _asker(
    config: JudgeConfig, judge: PairJudge, sampler: ChatModel | None
) -> Callable[[PairRow], Awaitable[Record]]:
    async def ask(row: PairRow) -> Record:
        answers = row.answers or await _draw(config, sampler, row)
        given = await judge.compare(row.prompt, *answers)
        swapped = await judge.compare(row.prompt, *reversed(answers))
        return {
            "answers": list(answers), "orders": [given.first, swapped.first],
            "reasons": [given.reason, swapped.reason],
        }  # fmt: skip

    return ask


async def _draw(config: JudgeConfig, sampler: ChatModel | None, row: PairRow) -> tuple[str, str]:
    """The first two of the samples that differ. Raises ChatError: none do."""
    assert sampler is not None
    found: list[str] = []
    for sample in range(config.samples):
        seed = int(digest(config.seed, row.id, sample)[:8], 16) >> 1
        sampling = Sampling(temperature=config.temperature, seed=seed, max_tokens=config.max_tokens)
        answer = (await sampler.chat(row.prompt, None, sampling)).content.strip()
        if answer and answer not in found:
            found.append(answer)
        if len(found) == 2:
            return found[0], found[1]
    raise ChatError("gave no two different answers", f"in {config.samples} samples")


def _judged(row: PairRow, record: Mapping[str, Any], margin: float) -> dict[str, Any]:
    """A line of judgements.jsonl. `probability`: that the first answer is the better one, the mean over both orders."""
    head = {"id": row.id, "subset": row.subset, "label": None if row.label is None else VERDICTS[row.label]}
    if "failed" in record:
        return {**head, "verdict": "failed", **record}
    given, swapped = record["orders"]
    probability = (given + 1.0 - swapped) / 2
    verdict = "tie"
    if abs(probability - 0.5) > margin:
        verdict = "first" if probability > 0.5 else "second"
    return {**head, "verdict": verdict, "probability": probability, **record}


def _preference(row: PairRow, judged: Mapping[str, Any], annotator: str) -> dict[str, Any]:
    first = judged["verdict"] == "first"
    chosen, rejected = judged["answers"] if first else reversed(judged["answers"])
    probability = judged["probability"] if first else 1.0 - judged["probability"]
    return {
        "id": row.id, "prompt": list(row.prompt), "chosen": _said(chosen), "rejected": _said(rejected),
        "source": row.source, "licence": row.licence, "annotator": annotator,
        "reason": "\n".join(dict.fromkeys(filter(None, judged["reasons"]))), "probability": probability,
        "subset": row.subset,
    }  # fmt: skip


def _said(text: str) -> list[Message]:
    return [{"role": "assistant", "content": text}]


def measures(judged: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Flat: counts, failures by reason, position bias, and agreement with people's labels, in all and by subset."""
    verdicts = Counter(str(one["verdict"]) for one in judged)
    orders = [(one["orders"][0], one["orders"][1]) for one in judged if "orders" in one]
    bias = position_bias(orders)
    # both as labels of the same two answers: the second order shows them the other way about
    self_kappa = cohen_kappa([_side(a) for a, _ in orders], [_side(1.0 - b) for _, b in orders])
    contrary = sum(_side(a) * _side(1.0 - b) < 0 for a, b in orders)
    values: dict[str, Any] = {
        "pairs": len(judged), "preferences": verdicts["first"] + verdicts["second"], "ties": verdicts["tie"],
        "failed": verdicts["failed"], "ties.contrary": contrary, "position.first": bias.first.value,
        "position.first.low": bias.first.low, "position.first.high": bias.first.high,
        "position.p_value": bias.p_value, "consistent": bias.consistent.value,
        "consistent.low": bias.consistent.low, "consistent.high": bias.consistent.high,
        "orders.kappa": self_kappa.value, "orders.kappa.low": self_kappa.low, "orders.kappa.high": self_kappa.high,
    }  # fmt: skip
    values |= {
        f"failed.{reason}": n for reason, n in Counter(o["failed"] for o in judged if "failed" in o).items()
    }
    for name, rows in _with_people(judged):
        values |= {f"{name}.{key}": value for key, value in against_people(rows).items()}
    return {name: None if value != value else value for name, value in values.items()}  # NaN is no JSON


def _side(probability: float) -> int:
    """-1, 0, 1."""
    return (probability > 0.5) - (probability < 0.5)


def _with_people(judged: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    known = [one for one in judged if one["label"] is not None]
    if known:
        yield "people", known
    subsets = sorted({str(one["subset"]) for one in known})
    for subset in subsets if len(subsets) > 1 else ():
        yield f"people.{subset}", [one for one in known if one["subset"] == subset]


def against_people(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Accuracy on pairs that both decided (Wilson), the same with each tie or failure of the judge as half a point, kappa."""
    asked = [one for one in rows if one["label"] != "tie"]
    decided = [one for one in asked if one["verdict"] in ("first", "second")]
    right = sum(one["verdict"] == one["label"] for one in decided)
    share = wilson(right, len(decided))
    judged = [one for one in rows if one["verdict"] != "failed"]
    kappa = cohen_kappa([one["label"] for one in judged], [one["verdict"] for one in judged])
    return {
        "pairs": len(rows), "decided": len(decided), "accuracy": share.value, "accuracy.low": share.low,
        "accuracy.high": share.high,
        "with_ties": (right + 0.5 * (len(asked) - len(decided))) / len(asked) if asked else float("nan"),
        "kappa": kappa.value, "kappa.low": kappa.low, "kappa.high": kappa.high,
    }  # fmt: skip
