"""Claim: of KorQuAD's questions 9 in 10 or more find their passage among the first five by words alone, more than by whole words
(tantivy's own tokeniser); vectors of spelling beside them find as many, and more where questions are mistyped.

964 contexts, whole articles of questions held out: whatever is chosen (the share of vectors, the weights of "I don't know")
is chosen on the articles of the other half, and the numbers are those of the held-out half. All contexts are in the
collection, in passages as any file is cut; a context's score is that of its best passage. For "I don't know" a collection
holds a half of the contexts by lot; a question is answerable if its own is there.
"""

from __future__ import annotations

import importlib
import json
import math
import random
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from sqlalchemy import select

from hanok.bench.documents_data import Question, korquad, mistyped
from hanok.bench.outcome import Rows, command_line, compare, present
from hanok.bench.stopped import stoppable
from hanok.documents import support as shipped
from hanok.documents import tables as t
from hanok.documents.index import BLEND
from hanok.documents.library import Library
from hanok.documents.support import LEAST, Features
from hanok.reporting import log, progress
from hanok.store.database import Store

TENANT = "bench"
SHARES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 1.0)
_QUICK, _SAMPLE, _TIMED = (
    500,
    2_000,
    500,
)  # questions: of --quick, of what is measured on a sample, and those timed
_FUSED = 60  # the constant of reciprocal rank fusion (Cormack et al., SIGIR 2009)


def run(*, quick: bool = False, folder: Path = Path("runs/bench")) -> Rows:
    """Rows of recall and mean reciprocal rank against tantivy, times, and the calibration of "I don't know"."""
    contexts, questions = korquad()
    chance = random.Random(0)
    if quick:
        questions = chance.sample(questions, _QUICK)
    some = chance.sample(questions, min(_SAMPLE, len(questions)))
    with tempfile.TemporaryDirectory() as place, Store(Path(place) / "store.sqlite") as store:
        library = Library(store)
        start = time.perf_counter()
        whole = Side(library, store, contexts, range(len(contexts)))
        whole.library.search(TENANT, [whole.collection], "첫 물음")
        indexing = time.perf_counter() - start
        peer = Tantivy(contexts)
        rows = _recall_rows("as asked", whole, peer, questions)
        slips = [Question(mistyped(q.text, chance), q.context, q.held_out) for q in some]
        rows += _recall_rows("mistyped", whole, peer, slips)
        rows += _time_rows(whole, peer, indexing, some[:_TIMED])
        rows += _unknown_rows(
            Side(library, store, contexts, sorted(chance.sample(range(len(contexts)), len(contexts) // 2))),
            some,
        )
    columns = {
        "case": "case",
        "metric": "metric",
        "ours": "ours",
        "peer": "peer",
        "theirs": "theirs",
        "runs": "questions",
    }
    present("Search in documents", rows, folder / "documents", columns=columns)
    return rows


class Side:
    """A collection of contexts: rows of one file."""

    def __init__(self, library: Library, store: Store, contexts: Sequence[str], kept: Sequence[int]) -> None:
        self.library, self.kept = library, kept
        content = "\n".join(json.dumps({"text": contexts[number]}, ensure_ascii=False) for number in kept)
        file = library.files.add(TENANT, "texts.jsonl", content.encode())
        self.collection = library.collections.create(TENANT, "texts", file_ids=[file.id]).id
        with store.read() as connection:
            query = (
                select(t.passages.c.text).where(t.passages.c.file_id == file.id).order_by(t.passages.c.number)
            )
            texts = list(connection.execute(query).scalars())
        self._starts = np.flatnonzero(np.diff(np.array(texts), prepend=-1))

    def scores(self, question: str) -> tuple[np.ndarray, np.ndarray]:
        """Words' and vectors' score of each passage."""
        _, scores = self.library.scores(TENANT, [self.collection], question)
        return scores.words_P, scores.vectors_P

    def best(self, scores_P: np.ndarray) -> np.ndarray:
        """Of each context, its best passage's score; passages of one context lie side by side."""
        return np.maximum.reduceat(scores_P, self._starts)


class Tantivy:
    """The peer: tantivy with its own tokeniser, whole contexts."""

    def __init__(self, contexts: Sequence[str]) -> None:
        tantivy = importlib.import_module("tantivy")

        builder = tantivy.SchemaBuilder()
        builder.add_text_field("text", stored=False)
        builder.add_integer_field("number", stored=True)
        start = time.perf_counter()
        self._index = tantivy.Index(builder.build())
        writer = self._index.writer(50_000_000, 1)
        for number, text in enumerate(contexts):
            writer.add_document(tantivy.Document(text=text, number=number))
        writer.commit()
        writer.wait_merging_threads()
        self._index.reload()
        self.indexing = time.perf_counter() - start
        self._searcher = self._index.searcher()

    def ranking(self, question: str) -> list[int]:
        words = re.sub(r"[^\w\s]", " ", question).lower()  # its query language has signs of its own
        found = self._searcher.search(self._index.parse_query(words, ["text"]), 50).hits
        return [int(self._searcher.doc(address)["number"][0]) for _, address in found]


def _recall_rows(case: str, side: Side, peer: Tantivy, questions: Sequence[Question]) -> Rows:
    """By words, by vectors, by the shipped blend, and by fused ranks; the shipped share beside the best on the other half."""
    ranks: dict[str, list[int]] = {}
    names = [f"share {share}" for share in SHARES]
    held = np.array([q.held_out for q in questions])
    with progress(f"questions {case}", len(questions), "questions") as bar:
        for question in questions:
            words_P, vectors_P = side.scores(question.text)
            for name, share in zip(names, SHARES, strict=True):
                found = side.best((1 - share) * words_P + share * vectors_P)
                ranks.setdefault(name, []).append(_rank(found, question.context))
            fused = sum(1 / (_FUSED + _places(side.best(scores_P))) for scores_P in (words_P, vectors_P))
            ranks.setdefault("fused ranks", []).append(_rank(np.asarray(fused), question.context))
            theirs = peer.ranking(question.text)
            place = theirs.index(question.context) if question.context in theirs else len(side.kept)
            ranks.setdefault("tantivy", []).append(place)
            bar.advance(1)
    of = {name: np.array(found) for name, found in ranks.items()}
    best = max(zip(names, SHARES, strict=True), key=lambda one: _mrr(of[one[0]][~held]))
    log.info("%s: the best share of vectors on the other half is %s; shipped: %s", case, best[1], BLEND)
    shown = {
        "words": "share 0.0",
        "vectors": "share 1.0",
        "hybrid": f"share {BLEND}",
        "fused ranks": "fused ranks",
    }
    measures: dict[str, Callable[[np.ndarray], float]] = {
        "recall@1": lambda r: float((r < 1).mean()), "recall@5": lambda r: float((r < 5).mean()),
        "recall@10": lambda r: float((r < 10).mean()), "MRR": _mrr,
    }  # fmt: skip
    others = of["tantivy"][held]
    return [
        compare(f"{case}/{way}", metric, [value(of[name][held])], {"tantivy": [value(others)]}, digits=4)
        | {"runs": int(held.sum()), "best_share_of_the_other_half": best[1]}
        for way, name in shown.items() for metric, value in measures.items()
    ]  # fmt: skip


def _time_rows(side: Side, peer: Tantivy, indexing: float, questions: Sequence[Question]) -> Rows:
    ours, theirs = list[float](), list[float]()
    for question in questions:
        start = time.perf_counter()
        side.library.search(TENANT, [side.collection], question.text, limit=10)
        middle = time.perf_counter()
        peer.ranking(question.text)
        ours.append(1e3 * (middle - start))
        theirs.append(1e3 * (time.perf_counter() - middle))
    rows = []
    for part in (50, 99):
        mine, other = (float(np.percentile(times, part)) for times in (ours, theirs))
        row = compare("query", f"milliseconds, p{part}", [mine], {"tantivy": [other]}, smaller=True, digits=2)
        rows.append(row | {"runs": len(ours)})
    return [
        compare("index", "seconds", [indexing], {"tantivy": [peer.indexing]}, smaller=True, digits=2)
        | {"runs": len(side.kept)},
        *rows,
    ]


@dataclass(frozen=True, slots=True)
class Judged:
    """Features of questions, whether each can be answered from the collection, and whether it is held out."""

    features_QF: np.ndarray
    answerable_Q: np.ndarray
    held_Q: np.ndarray


def _unknown_rows(side: Side, questions: Sequence[Question]) -> Rows:
    judged = _judge(side, questions)
    weights, bias = _fit(judged.features_QF[~judged.held_Q], judged.answerable_Q[~judged.held_Q])
    fitted = 1 / (1 + np.exp(-(judged.features_QF @ weights + bias)))
    ours = np.array([shipped.support(Features(*features)) for features in judged.features_QF.tolist()])
    best = judged.features_QF[:, 0]
    rows = _calibration("shipped weights", ours, judged)
    told = {"weights": [*weights.round(2).tolist(), round(bias, 2)]}
    rows += [row | told for row in _calibration("weights fitted now", fitted, judged)]
    cut = _balanced(best[~judged.held_Q], judged.answerable_Q[~judged.held_Q])
    return rows + _calibration("the best score alone", np.where(best > cut, 1.0, 0.0), judged, auc_of=best)


def _judge(side: Side, questions: Sequence[Question]) -> Judged:
    kept, features = set(side.kept), []
    with progress("I don't know", len(questions), "questions") as bar:
        for question in questions:
            _, found = side.library.measured(TENANT, [side.collection], question.text)
            features.append(astuple(found))
            bar.advance(1)
    return Judged(
        np.array(features), np.array([q.context in kept for q in questions]), np.array([q.held_out for q in questions])
    )  # fmt: skip


def _calibration(
    case: str, support_Q: np.ndarray, judged: Judged, *, auc_of: np.ndarray | None = None
) -> Rows:
    """Held out: unanswerable questions that would be answered, answerable ones refused, and the area under the curve."""
    held, can = judged.held_Q, judged.answerable_Q[judged.held_Q]
    answered = support_Q[held] >= LEAST
    area = _area((support_Q if auc_of is None else auc_of)[held], can)
    numbers = {
        "false answers": float(answered[~can].mean()), "false refusals": float((~answered[can]).mean()), "area under curve": area,
    }  # fmt: skip
    return [
        compare(f"I don't know/{case}", metric, [value], {}, digits=4) | {"runs": len(can)} for metric, value in numbers.items()
    ]  # fmt: skip


def _fit(features_QF: np.ndarray, answerable_Q: np.ndarray) -> tuple[np.ndarray, float]:
    """Logistic regression by Newton's method."""
    x_QG = np.column_stack([features_QF, np.ones(len(features_QF))])
    w_G = np.zeros(x_QG.shape[1])
    for _ in range(30):
        p_Q = 1 / (1 + np.exp(-x_QG @ w_G))
        hessian = (x_QG * (p_Q * (1 - p_Q))[:, None]).T @ x_QG + 1e-6 * np.eye(len(w_G))
        w_G = w_G + np.linalg.solve(hessian, x_QG.T @ (answerable_Q - p_Q))
    return w_G[:-1], float(w_G[-1])


def _balanced(scores_Q: np.ndarray, answerable_Q: np.ndarray) -> float:
    """The cut with the fewest mistakes."""
    cuts = np.quantile(scores_Q, np.linspace(0.01, 0.99, 99))
    return float(max(cuts, key=lambda cut: ((scores_Q > cut) == answerable_Q).mean()))


def _area(scores_Q: np.ndarray, answerable_Q: np.ndarray) -> float:
    """How often an answerable question scores higher than an unanswerable one."""
    places = scores_Q.argsort().argsort()
    can = int(answerable_Q.sum())
    return float((places[answerable_Q].mean() - (can - 1) / 2) / max(1, len(scores_Q) - can))


def _rank(scores_C: np.ndarray, context: int) -> int:
    """How many contexts stand before this one; the earlier of equals does."""
    score = scores_C[context]
    return int((scores_C > score).sum() + (scores_C[:context] == score).sum())


def _places(scores_C: np.ndarray) -> np.ndarray:
    """1 for the highest score."""
    places_C = np.empty(len(scores_C))
    places_C[np.argsort(-scores_C, kind="stable")] = np.arange(1, len(scores_C) + 1)
    return places_C


def _mrr(ranks: np.ndarray) -> float:
    return math.fsum(1 / (ranks + 1)) / len(ranks)


@stoppable
def main() -> None:
    command_line(__doc__, run, quick=f"{_QUICK:,} questions")


if __name__ == "__main__":
    main()
