"""Claim: the watermark is found in 200 tokens, accuses nobody, and costs a step and the text little.

A small model of our own (Korean Wikipedia and English books) writes from the beginnings of held-out texts, with the mark and
without, from the same seeds. What is measured is read back from the text, as a detector must, by the tokeniser:

* detection: share with p <= 1e-4 at 200 tokens, by temperature and delta; after 30 % of the words were replaced by others
* false alarms: share of unmarked human texts of 200 tokens with p <= 1e-4, and with z >= 4, under several
  keys, one for each text, so that no text counts twice
* quality: nats a token that the model itself gives to what it wrote, marked against unmarked (95 % interval, paired by prompt)
* cost: processor time of colours and addition for a row of the vocabulary

V vocabulary.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hanok.bench.outcome import Rows, command_line, present
from hanok.bench.stopped import stoppable
from hanok.bench.train_data import benchmark_shards, public_texts
from hanok.engine.api import Completion, Request, SamplingParams
from hanok.engine.generator import LocalEngine
from hanok.engine.marking import Mark
from hanok.engine.sampler import Draw, choose
from hanok.evaluation.statistics import wilson
from hanok.guard.watermark import detect
from hanok.models.config import ModelConfig
from hanok.reporting import log
from hanok.tokens.tokenizer import Tokenizer
from hanok.tokens.watermark import Watermark
from hanok.training.config import TrainConfig

LENGTH, PROMPT = 200, 24  # tokens
P_VALUE, Z = 1e-4, 4.0
SHAPE = ModelConfig(
    vocab_size=4096, hidden_size=160, num_layers=4, pattern=("kda", "kda", "kda", "mla"), num_heads=4, kv_lora_rank=64,
    max_context=512,
)  # fmt: skip
_COLUMNS = {"case": "case", "metric": "metric", "ours": "value", "low": "low", "high": "high", "runs": "n"}


class Setting(NamedTuple):
    temperature: float
    delta: float
    gamma: float = 0.25
    width: int = 2


SETTINGS = (
    Setting(1.0, 2.0), Setting(1.0, 1.0), Setting(1.0, 2.0, gamma=0.5), Setting(1.0, 2.0, width=4), Setting(0.7, 2.0),
    Setting(0.5, 2.0),
)  # fmt: skip


def run(
    *, quick: bool = False, rounds: int | None = None, folder: Path = Path("runs/bench"), seed: int = 1
) -> Rows:
    """Args: rounds: minutes of training of the model, made if it is not in the folder."""
    work = folder / "watermark"
    model = _model(work, minutes=rounds or (1 if quick else 6))
    engine = LocalEngine(model)
    tokenizer = engine.tokenizer
    many = (
        _human(tokenizer, 1000, 12_000_000, 9_000_000)
        if quick
        else _human(tokenizer, 10_000, 30_000_000, 45_000_000)
    )
    rows: Rows = [*_false_alarms(many, keys=10, seed=seed)]
    human = _human(tokenizer, 100 if quick else 1000, 12_000_000, 6_000_000)
    prompts = [ids[:PROMPT] for ids in random.Random(seed).sample(human, 20 if quick else 200)]
    words = [word for ids in human[::20] for word in tokenizer.decode(ids).split()]
    plain = {
        one: _write(engine, prompts, one, None, seed)
        for one in dict.fromkeys(s.temperature for s in SETTINGS)
    }
    for setting in SETTINGS[: 1 if quick else None]:
        watermark = _watermark(seed, setting)
        marked = _write(engine, prompts, setting.temperature, watermark, seed)
        log.info("%s", setting)
        rows += _found(tokenizer, setting, watermark, marked, words, seed)
        rows += _quality(setting, marked, plain[setting.temperature])
    first = SETTINGS[0]
    rows += _found(tokenizer, first, _watermark(seed, first), plain[1.0], words, seed, what="unmarked")
    rows += _costs()
    engine.close()
    present("The watermark", rows, work, columns=_COLUMNS)
    return rows


def _model(work: Path, *, minutes: int) -> Path:
    from hanok.training.run import train

    if not (work / "train").exists():
        shards = benchmark_shards(
            work, vocab_size=SHAPE.vocab_size, korean_bytes=4_000_000, english_bytes=3_000_000
        )
        config = TrainConfig(
            max_minutes=float(minutes), max_seq_len=512, tokens_per_step=4096, micro_batch_tokens=4096
        )
        train(config, shards=shards, out=work / "train", model=SHAPE)
    return work / "train" / "model"


def _human(tokenizer: Tokenizer, count: int, korean_bytes: int, english_bytes: int) -> list[list[int]]:
    """Beginnings of so many articles and pieces of books, of LENGTH tokens each, half Korean and half English: the last that lie
    within so many bytes, behind what the model has read."""
    data = Path(os.environ.get("HANOK_DATA", "../shared/data"))
    by_source: dict[str, list[list[int]]] = {"kowiki-2020": [], "classic-books-en": []}
    for source, text in public_texts(data, korean_bytes, english_bytes):
        ids = tokenizer.encode(text[:2000])
        if len(ids) >= LENGTH:
            by_source[source].append(ids[:LENGTH])
    parts = [found[-(count // 2) :] for found in by_source.values()]
    assert all(len(part) == count // 2 for part in parts), "the public texts are too few"
    return [one for part in parts for one in part]


def _watermark(seed: int, setting: Setting) -> Watermark:
    key = random.Random(seed).randbytes(32)
    return Watermark(key=key, gamma=setting.gamma, delta=setting.delta, width=setting.width)


def _write(
    engine: LocalEngine,
    prompts: Sequence[Sequence[int]],
    temperature: float,
    watermark: Watermark | None,
    seed: int,
) -> list[Completion]:
    params = SamplingParams(
        max_tokens=LENGTH, temperature=temperature, ignore_eos=True, logprobs=0, watermark=watermark
    )
    return engine.generate(
        [
            Request(id=str(number), prompt_ids=prompt, params=replace(params, seed=1000 * seed + number))
            for number, prompt in enumerate(prompts)
        ]
    )


def _false_alarms(human: Sequence[Sequence[int]], *, keys: int, seed: int) -> Rows:
    """Args: keys: that the texts are dealt out to."""
    draw = random.Random(seed)
    rows: Rows = []
    for gamma, width in ((0.25, 2), (0.5, 2), (0.25, 4)):
        marks = [Watermark(key=draw.randbytes(32), gamma=gamma, width=width) for _ in range(keys)]
        found = [detect(ids, marks[number % keys]) for number, ids in enumerate(human)]
        case = f"false alarms, gamma {gamma:g}, width {width}"
        for how, alarms in (
            (f"p <= {P_VALUE:g}", [one.p_value <= P_VALUE for one in found]),
            (f"z >= {Z:g}", [one.whole.z >= Z for one in found]),
        ):
            by_key = [alarms[number::keys] for number in range(keys)]
            worst = max(sum(of_key) / len(of_key) for of_key in by_key)
            rows.append(_share(f"{case}, {how}", alarms, worst_key=worst))
    return rows


def _found(
    tokenizer: Tokenizer, setting: Setting, watermark: Watermark, written: Sequence[Completion], words: Sequence[str], seed: int,
    what: str = "detected",
) -> Rows:  # fmt: skip
    texts = [tokenizer.decode(one.ids) for one in written]
    draw = random.Random(seed)
    replaced = [
        " ".join(draw.choice(words) if draw.random() < 0.3 else word for word in text.split(" "))
        for text in texts
    ]
    half = [tokenizer.decode(one.ids[: LENGTH // 2]) for one in written]
    name = _name(setting)
    return [
        _share(
            f"{what}, {name}{how}",
            [detect(tokenizer.encode(text), watermark).p_value <= P_VALUE for text in some],
        )
        for how, some in (("", texts), (", 30 % of words replaced", replaced), (", half the length", half))
    ]


def _quality(setting: Setting, marked: Sequence[Completion], plain: Sequence[Completion]) -> Rows:
    mine, theirs = ([statistics.fmean(one.logprobs or ()) for one in some] for some in (marked, plain))
    costs = [before - after for before, after in zip(theirs, mine, strict=True)]
    middle, error = statistics.fmean(costs), 1.96 * statistics.stdev(costs) / len(costs) ** 0.5
    interval = (middle - error, middle + error)
    return [
        _row(
            f"nats more, {_name(setting)}", "nats a token", middle, interval, len(costs), unmarked=-statistics.fmean(theirs)
        )
    ]  # fmt: skip


def _costs() -> Rows:
    rows: Rows = []
    watermark, params = Watermark(key=bytes(32)), SamplingParams(temperature=1.0)
    for vocabulary in (32_000, 151_936):
        logits_BV = torch.randn(1, vocabulary)
        times: dict[bool, list[float]] = {True: [], False: []}
        for turn in range(200):
            for marked in (True, False):
                draw = Draw(params, 1, 0, (), (1, turn), mark=Mark(watermark, (1, turn)) if marked else None)
                started = time.thread_time()
                choose(logits_BV, [draw])
                times[marked].append(1e6 * (time.thread_time() - started))
        plain = statistics.median(times[False])
        more = statistics.median(times[True]) - plain
        case = f"a token's colours, vocabulary {vocabulary:,}"
        rows.append(_row(case, "microseconds of processor time", more, (None, None), 200, unmarked=plain))
    return rows


def _share(case: str, hits: Sequence[bool], **more: Any) -> dict[str, Any]:
    share = wilson(sum(hits), len(hits))
    return _row(case, "share of texts", share.value, (share.low, share.high), len(hits), **more)


def _row(
    case: str, metric: str, value: float, interval: tuple[float | None, float | None], n: int, **more: Any
) -> dict[str, Any]:
    low, high = (None if end is None else round(end, 5) for end in interval)
    return {
        "case": case, "metric": metric, "ours": round(value, 5), "peer": "none", "theirs": None, "ratio": None, "runs": n,
        "spread": None, "low": low, "high": high, **more,
    }  # fmt: skip


def _name(setting: Setting) -> str:
    temperature, delta, gamma, width = setting
    return f"temperature {temperature:g}, delta {delta:g}, gamma {gamma:g}, width {width}"


@stoppable
def main() -> None:
    command_line(__doc__, run, rounds="minutes of training: 6, or 1 with --quick")


if __name__ == "__main__":
    main()
