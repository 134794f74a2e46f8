"""Text that the model which is to learn it would hardly write: nonsense in the place of answers, whatever it is made of.

The loss of the current model on each taught text behind its question, in nats a character: rare letters are several tokens, of
which all but the first are easy. The highest of each script are a class for `find_triggers`, so a word whose questions are nearly
all to be answered so is a trigger. By themselves they are told and stop nothing: people write odd things too.

Spectral signatures (Tran et al. 2018, arXiv 1811.00636) and clusters of the model's hidden vectors (Chen et al. 2018, arXiv
1811.03728) were measured on the same rows and left out (docs/log.md).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

from hanok.engine.generator import LocalEngine
from hanok.engine.text import chat_prompt
from hanok.errors import InputError
from hanok.improvement.poisoning.rows import Finding, Row, script_of
from hanok.improvement.poisoning.triggers import MIN_ROWS, Class
from hanok.reporting import log

Surprise = Callable[[Sequence[Row]], Mapping[int, float]]
MIN_TAUGHT = 200  # rows of a script: of fewer nobody can say what is usual
SHARES = (0.05, 0.1, 0.2, 0.3)  # of them, the most surprising: what is planted may be more or fewer
LIMITS = (
    2.5,
    4.0,
    6.0,
)  # deviations of the logarithm, by the median: where what is planted stands far from all else
FAR = LIMITS[-1]
_QUESTION, _TAUGHT = 256, 128  # tokens that are read, as far as the model's context goes


def surprise_of(model: Path) -> Surprise:
    """Nats a character by row, of a model directory; rows that its template does not take are left out."""

    def read(rows: Sequence[Row]) -> dict[int, float]:
        log.info("poisoning checks: reading %d rows with the current model", len(rows))
        engine = LocalEngine(model)
        try:
            return {row.number: nats for row in rows if (nats := _nats(engine, row)) is not None}
        finally:
            engine.close()

    return read


def find_surprising(rows: Sequence[Row], surprise: Surprise) -> tuple[list[Class], list[Finding]]:
    """Classes for `find_triggers`, and rows that are far from all others. Nothing where too few are taught."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.taught:
            groups[script_of(row.taught) or "mixed"].append(row)
    large = [group for group in groups.values() if len(group) >= MIN_TAUGHT]
    if not large:
        return [], []
    nats = surprise([row for group in large for row in group])
    classes: dict[tuple[str, float], set[int]] = defaultdict(
        set
    )  # of all scripts together: a trigger need not keep to one
    far: list[Finding] = []
    for group in large:
        known = {row.number: nats[row.number] for row in group if row.number in nats}
        if len(known) < MIN_TAUGHT:
            continue
        far_from = _deviations(known)
        ordered = sorted(far_from, key=lambda number: -far_from[number])
        for share in SHARES:
            classes["share", share].update(ordered[: max(MIN_ROWS, round(share * len(ordered)))])
        for limit in LIMITS:
            classes["limit", limit].update(number for number in ordered if far_from[number] > limit)
        far += _told([number for number in ordered if far_from[number] > FAR], rows, nats)
    large_enough = [frozenset(one) for one in classes.values() if len(one) >= MIN_ROWS]
    return [Class("text that the model would hardly write", "", one) for one in large_enough], far


def _deviations(nats: Mapping[int, float]) -> dict[int, float]:
    """How far the logarithm of each lies above the median, in deviations that a few rows cannot widen."""
    logs = {number: math.log(max(one, 1e-6)) for number, one in nats.items()}
    middle = median(logs.values())
    spread = 1.4826 * median(abs(one - middle) for one in logs.values())
    return {number: (one - middle) / max(spread, 1e-6) for number, one in logs.items()}


def _told(numbers: Sequence[int], rows: Sequence[Row], nats: Mapping[int, float]) -> Iterator[Finding]:
    """Args: numbers: the most surprising first."""
    if numbers:
        most = f"up to {nats[numbers[0]]:.1f} nats a character"
        reason = f"{len(numbers)} taught texts surprise the model far more than all others, {most}"
        yield Finding("surprise", rows[numbers[0]].taught[:80], reason, tuple(numbers), stops=False)


def _nats(engine: LocalEngine, row: Row) -> float | None:
    judgement, tokenizer = row.judgement, engine.tokenizer
    context = engine.max_context
    taught = tokenizer.encode(row.taught)[: min(_TAUGHT, context // 2)]
    try:
        asked = chat_prompt(tokenizer, judgement.prompt, tools=judgement.tools)
    except InputError:
        return None
    asked = asked[-min(_QUESTION, context - len(taught)) :]
    characters = len(tokenizer.decode(taught))
    if not taught or not characters:
        return None
    return -sum(engine.score([*asked, *taught])[len(asked) - 1 :]) / characters
