"""Learned decoding on the village: do heads that choose temperature and top-p beat greedy and the best fixed choice?

Facts have one answer, letters and stories many. Score = share of facts answered right x distinct-2 of the letters (different
pairs of neighbouring words over all pairs, `SAMPLES` letters a prompt). The fixed choice is the best of a 5 x 4 grid on a
split of its own, the scale of the temperatures of the heads the best of `SCALES` on the same; all are then measured on another.
Noise counts as diverse, so the share of letters that the village could have written stands beside, and the best fixed choice
that is hotter than the grid. Also: whether the predicted temperature tells free positions of letters from those that the text
before decides (AUC), and whether words in the prompt move it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hanok.artefacts import open_artefact
from hanok.bench.autodeco_data import (
    Letter,
    conversations,
    facts,
    free_positions,
    is_sound,
    letters,
    village_of,
    write_chat_shards,
)
from hanok.bench.outcome import Rows
from hanok.bench.stopped import stoppable
from hanok.data.village.build import Village
from hanok.data.village.check import check
from hanok.data.village.dialogues import Dialogue
from hanok.engine.api import Request, SamplingParams
from hanok.engine.generator import LocalEngine
from hanok.engine.text import chat_prompt
from hanok.models.checkpoint import load_model
from hanok.models.checkpoint.decoding import load_heads
from hanok.models.decoder import Decoder
from hanok.models.decoding import DecodingHeads
from hanok.reporting import table
from hanok.tokens.tokenizer import Tokenizer
from hanok.training.decoding.config import ControlConfig, DecodingConfig
from hanok.training.decoding.control import train_control, worded
from hanok.training.decoding.run import train_heads

TEMPERATURES, TOP_PS = (0.3, 0.6, 0.9, 1.2, 1.5), (0.8, 0.9, 0.95, 1.0)
HOTTER = (1.8, 2.1)
SCALES = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5)
SAMPLES = 2


@dataclass(frozen=True, slots=True)
class Exam:
    facts: list[Dialogue]
    letters: list[Letter]


@dataclass(frozen=True, slots=True)
class Mark:
    """Args: facts: share answered right. distinct: distinct-2 of the letters. sound: share of them that are the village's."""

    facts: float
    distinct: float
    sound: float

    @property
    def row(self) -> tuple[float, float, float, float]:
        return self.facts, self.distinct, self.score, self.sound

    @property
    def score(self) -> float:
        return self.facts * self.distinct


def exam(village: Village, seed: str, *, facts_each: int, letters_each: int) -> Exam:
    """Args: facts_each, letters_each: per language."""
    languages = village.config.languages
    return Exam(
        [one for language in languages for one in facts(village, language, facts_each, seed)],
        [one for language in languages for one in letters(village, language, letters_each, seed)],
    )


def mark(engine: LocalEngine, exam: Exam, params: dict[str, Any]) -> Mark:
    """Answers of one way to decode; `params` of `SamplingParams`. Every request has a seed of its own."""
    prompts = [dialogue.messages[:-1] for dialogue in exam.facts]
    prompts += [one.messages[:-1] for one in exam.letters for _ in range(SAMPLES)]
    requests = [
        Request(
            id=str(number), prompt_ids=chat_prompt(engine.tokenizer, messages),
            params=SamplingParams(max_tokens=192, seed=number, **params),
        )
        for number, messages in enumerate(prompts)
    ]  # fmt: skip
    texts = [engine.tokenizer.decode(completion.ids).strip() for completion in engine.generate(requests)]
    right = [
        check({"kind": d.kind, "answer": d.answer, "type": d.type, "choices": d.choices}, text)
        for d, text in zip(exam.facts, texts, strict=False)
    ]
    written = texts[len(exam.facts) :]
    asked = [one for one in exam.letters for _ in range(SAMPLES)]
    sound = [is_sound(letter, text) for letter, text in zip(asked, written, strict=True)]
    return Mark(_mean(right), distinct_pairs(written), _mean(sound))


def distinct_pairs(texts: Iterable[str]) -> float:
    pairs = [pair for text in texts for words in [text.split()] for pair in itertools.pairwise(words)]
    return len(set(pairs)) / max(1, len(pairs))


@torch.no_grad()
def predictions(
    decoder: Decoder, heads: DecodingHeads, tokenizer: Tokenizer, messages: Sequence[Any]
) -> tuple[list[str], list[float]]:
    """Texts of the last answer's tokens, and the temperature that each is drawn at."""
    ids, learnt = tokenizer.encode_chat(messages)
    prompt, _ = tokenizer.encode_chat(messages[:-1], add_generation_prompt=True)
    hidden_ND, _ = decoder(
        torch.tensor([tokenizer.bos_id, *ids[:-1]]), torch.tensor([0, len(ids)], dtype=torch.int32)
    )
    control = set(tokenizer.special.values())
    places = [n for n in range(len(prompt), len(ids)) if learnt[n] and ids[n] not in control]
    temperature_N = heads.temperature(hidden_ND)
    texts = [tokenizer.token_bytes(ids[place]).decode("utf-8", "replace") for place in places]
    return texts, [float(temperature_N[place]) for place in places]


def separation(model: Path, village: Village, seed: str, *, each: int) -> dict[str, float]:
    """AUC of the temperature at free positions of letters over that at forced ones, and over that in facts."""
    decoder, tokenizer = load_model(model), Tokenizer.load(model)
    heads = load_heads(model, width=decoder.config.hidden_size)
    assert heads is not None
    free, forced, fact = [], [], []
    for language in village.config.languages:
        for letter in letters(village, language, each, seed):
            texts, temperatures = predictions(decoder, heads, tokenizer, letter.messages)
            if "".join(texts) != letter.text:  # a character cut between two tokens
                continue
            for is_free, value in zip(free_positions(letter, texts), temperatures, strict=True):
                (free if is_free else forced).append(value)
        for dialogue in facts(village, language, 2 * each, seed):
            fact += predictions(decoder, heads, tokenizer, dialogue.messages)[1]
    return {
        "AUC, free over forced and facts": auc(free, [*forced, *fact]), "AUC, free over facts": auc(free, fact),
        "free positions": len(free), "forced positions": len(forced), "positions in facts": len(fact),
        "mean temperature, free": _mean(free), "mean temperature, forced": _mean(forced),
        "mean temperature, facts": _mean(fact),
    }  # fmt: skip


def auc(high: Sequence[float], low: Sequence[float]) -> float:
    """Probability that one of `high` is above one of `low`; equal ones count half."""
    high_H1, low_L = torch.tensor(high, dtype=torch.float64)[:, None], torch.tensor(low, dtype=torch.float64)
    return float(((high_H1 > low_L).double() + 0.5 * (high_H1 == low_L).double()).mean())


def obedience(model: Path, prompts: Sequence[Sequence[Any]], config: ControlConfig) -> dict[str, float]:
    """Shares of the prompts whose mean temperature over the answer goes down, up, or both ways as asked."""
    decoder, tokenizer = load_model(model), Tokenizer.load(model)
    heads = load_heads(model, width=decoder.config.hidden_size)
    assert heads is not None
    lows, plains, highs = [], [], []
    for number, messages in enumerate(prompts):
        wording = number % len(config.low)
        for words, into in ((config.low[wording], lows), ("", plains), (config.high[wording], highs)):
            into.append(_mean(predictions(decoder, heads, tokenizer, worded(messages, words))[1]))
    rows = list(zip(lows, plains, highs, strict=True))
    return {
        "prompts": len(rows), "lower when certain": _mean([low < plain for low, plain, _ in rows]),
        "higher when inventive": _mean([plain < high for _, plain, high in rows]),
        "certain below inventive": _mean([low < high for low, _, high in rows]),
        "mean temperature, certain": _mean(lows), "mean temperature, plain": _mean(plains),
        "mean temperature, inventive": _mean(highs),
    }  # fmt: skip


def run(
    *, model: Path, village: Path, out: Path, config: DecodingConfig, control: ControlConfig, seeds: Sequence[int], quick: bool
) -> Rows:  # fmt: skip
    """Train (or go on where an earlier run stopped), measure, print; rows for `--json`."""
    made = village_of(village, dict(open_artefact(village).step))
    tokenizer = Tokenizer.load(model)
    if not (out / "shards").is_dir():
        chats = conversations(made, "train", facts_each=1200, letters_each=600)
        held_out = conversations(made, "validation", facts_each=60, letters_each=30)
        parts: dict[str, Sequence[Any]] = {"chat-train": chats, "chat-validation": held_out}
        write_chat_shards(parts, tokenizer, out / "shards", step={"benchmark": "autodeco"})
    prompts = out / "prompts.jsonl"
    talks = conversations(made, "control", facts_each=100, letters_each=100)
    prompts.write_text("\n".join(json.dumps({"messages": m}) for m in talks), encoding="utf-8")
    size = (20, 10) if quick else (60, 30)
    choosing = exam(made, "choosing", facts_each=size[0], letters_each=size[1])
    testing = exam(made, "testing", facts_each=3 * size[0], letters_each=2 * size[1])
    fixed = fixed_ways(model, choosing, testing)
    others = conversations(made, "control-test", facts_each=25, letters_each=25)
    rows: Rows = []
    for seed in seeds:
        folder = out / f"seed-{seed}"
        heads = train_heads(
            replace(config, seed=seed), model=model, shards=out / "shards", out=folder / "heads"
        ).path
        found = contest(heads, choosing, testing, fixed, seed=seed)
        separated = separation(heads, made, "testing", each=size[1])
        found += _told("separation", f"predicted temperature, seed {seed}", separated)
        controlled = train_control(
            replace(control, seed=seed), model=heads, prompts=prompts, out=folder / "control"
        ).path
        for name, directory in (("before control", heads), ("after control", controlled)):
            found += _told(name, f"{name}, seed {seed}", obedience(directory, others, control))
        rows += [{"seed": seed, **row} for row in found]
    return rows


def fixed_ways(model: Path, choosing: Exam, testing: Exam) -> dict[str, Mark]:
    """Marks on `testing` of greedy, the best fixed settings on `choosing`, and, as a control, the best that is hotter than the
    grid."""
    engine = LocalEngine(model)
    grid, hotter = _settings(TEMPERATURES), _settings(HOTTER)
    chosen = {name: mark(engine, choosing, params) for name, params in (grid | hotter).items()}
    _tell(f"choosing: {_size(choosing)}", "fixed", chosen)
    greedy = mark(engine, choosing, {"temperature": 0.0})
    best = max(grid, key=lambda name: chosen[name].score)
    hottest = max(hotter, key=lambda name: chosen[name].score)
    near = [name for name in grid if chosen[name].facts >= greedy.facts - 0.01]
    careful = max(near, key=lambda name: chosen[name].score, default=best)
    ways = {
        "greedy": {"temperature": 0.0}, f"best fixed, {best}": grid[best],
        f"best fixed within a point of greedy's facts, {careful}": grid[careful],
        f"best hotter than the grid, {hottest}": hotter[hottest],
    }  # fmt: skip
    marks = {name: mark(engine, testing, params) for name, params in ways.items()}
    engine.close()
    return marks


def contest(heads: Path, choosing: Exam, testing: Exam, fixed: dict[str, Mark], *, seed: int) -> Rows:
    """Heads as they are, and with their temperatures scaled by what is best on `choosing`, against fixed ways."""
    engine = LocalEngine(heads)
    scales = {f"heads x {scale}": {"temperature_scale": scale} for scale in SCALES}
    chosen = {name: mark(engine, choosing, params) for name, params in scales.items()}
    _tell(f"choosing, heads of seed {seed}: {_size(choosing)}", "scale of the temperatures", chosen)
    best = max(chosen, key=lambda name: chosen[name].score)
    ours = {"heads": mark(engine, testing, {}), best: mark(engine, testing, scales[best])}
    engine.close()
    _tell(f"testing, heads of seed {seed}: {_size(testing)}", "decoding", fixed | ours)
    return [
        {"case": case, "metric": metric, "ours": getattr(mine, metric), "peer": name,
         "theirs": getattr(m, metric), "ratio": getattr(mine, metric) / max(1e-9, getattr(m, metric))}
        for case, mine in ours.items()
        for name, m in fixed.items()
        for metric in ("facts", "distinct", "score", "sound")
    ]  # fmt: skip


def _settings(temperatures: Sequence[float]) -> dict[str, dict[str, Any]]:
    return {
        f"T = {t}, top-p = {p}": {"temperature": t, "top_p": p, "decoding": "fixed"}
        for t in temperatures
        for p in TOP_PS
    }


def _size(exam: Exam) -> str:
    return f"{len(exam.facts)} facts, {len(exam.letters)} letters x {SAMPLES}"


def _tell(title: str, what: str, marks: Mapping[str, Mark]) -> None:
    columns = (what, "facts right", "distinct-2", "score", "sound letters")
    table(title, columns, [(name, *m.row) for name, m in marks.items()])


def _told(case: str, title: str, found: Mapping[str, float]) -> Rows:
    table(title, ("measure", "value"), list(found.items()))
    return [{"case": case, "metric": name, "ours": value} for name, value in found.items()]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))


@stoppable
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--run", type=Path, default=Path("runs/quickstart"), help="a finished run over the village"
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/bench/autodeco"))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--weigh-by-confidence", action="store_true", help="as the released trainer does")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    config = DecodingConfig(
        max_steps=options.steps, tokens_per_step=2048, micro_batch_tokens=2048, max_seq_len=512, lr=3e-3,
        weigh_by_confidence=options.weigh_by_confidence, threads=options.threads,
    )  # fmt: skip
    control = ControlConfig(lr=3e-3, max_seq_len=512, micro_batch_tokens=2048, threads=options.threads)
    rows = run(
        model=options.run / "model", village=options.run / "village", out=options.folder, config=config,
        control=control, seeds=options.seeds, quick=options.quick,
    )  # fmt: skip
    if options.json:
        json.dump(rows, sys.stdout, indent=1)
