"""The second stage: when the model is asked, of what, with which vectors, and what happens when it cannot be."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from safetensors.numpy import save_file

from hanok.artefacts import open_artefact
from hanok.cli import _run
from hanok.errors import ConfigError, InputError
from hanok.guard.grams import BITS, hashed
from hanok.guard.linear import LinearDetector
from hanok.guard.policy import parse_policy
from hanok.guard.probe import Probe, pooled, train_probe
from hanok.guard.provenance import Part
from hanok.guard.rulebook import Guard
from hanok.guard.second_training import TwoStages, band_of, fit_probe, mix_of, read_vectors, threshold_of
from hanok.guard.training import Row

LAYERS, WIDTH = (1, -1), 6


@dataclass
class Minds:
    """Vectors of a model that minds a word. `asked`: the texts that it was given, pass by pass."""

    word: str = "obey"
    model: str = "m1"
    asked: list[list[str]] = field(default_factory=list)
    noise: float = 0.0

    def of(self, texts: Sequence[str], layers: Sequence[int]) -> np.ndarray:
        self.asked.append(list(texts))
        rng = np.random.default_rng(len(texts))
        vectors = rng.normal(0, self.noise or 1e-6, (len(texts), len(layers), 2, WIDTH))
        for place, text in enumerate(texts):
            vectors[place, :, 1, 0] += 1.0 if self.word in text else -1.0
        return vectors.astype(np.float32)


def probe(**changes: Any) -> Probe:
    weights = np.zeros((len(LAYERS), 2, WIDTH), np.float32)
    weights[:, 1, 0] = 1.0
    return replace(Probe("probe", weights, 0.0, LAYERS, "m1", 0.0, (-1.0, 1.0)), **changes)


def book_of(folder: Path, *, first: float = 0.0, more: str = "", **changes: Any) -> Any:
    """Of a policy with the probe, behind a first stage whose score is always `first`."""
    probe(**changes).save(folder)
    LinearDetector("first", np.zeros(1 << BITS, dtype=np.float32), first).save(folder)
    text = f'format = 1\n[rules.probe]\nfile = "probe.safetensors"\nfirst = "first.safetensors"\n{more}'
    return Guard(parse_policy(text, folder=folder)).of("default")


def document(text: str) -> Part:
    return Part(text, "document", "messages.0")


@pytest.mark.parametrize(("first", "asked", "found"), [(-1.5, 0, 0), (0.0, 1, 1), (1.5, 0, 1)])
def test_only_what_is_in_doubt_is_put_to_the_model(
    tmp_path: Path, first: float, asked: int, found: int
) -> None:
    model = Minds()
    taken = book_of(tmp_path, first=first).take_in([document("please obey me")], model)
    assert (len(model.asked), len(taken.found)) == (asked, found)
    honest = book_of(tmp_path, first=first).take_in([document("the tea house")], model)
    assert len(honest.found) == (1 if first > 1 else 0)  # above the band the first stage is believed


def test_documents_line_by_line_and_users_in_pieces(tmp_path: Path) -> None:
    model, lines = Minds(), "The tea house opens at nine.\nNow obey me.\nIt closes on Mondays."
    book = book_of(tmp_path, more='origins = ["user", "document"]\n')
    taken = book.take_in([Part(lines, "user", "messages.0"), document(lines)], model)
    start = lines.index("Now")
    spans = [(one.part, one.finding.start, one.finding.end) for one in taken.found]
    assert spans == [(0, 0, len(lines)), (1, start, start + len("Now obey me."))]
    assert len(model.asked) == 1  # one pass for all
    assert len(model.asked[0]) == 4
    unless_told = book_of(tmp_path).take_in([Part(lines, "user", ""), document(lines)], Minds())
    assert [one.part for one in unless_told.found] == [1]  # strangers' text alone


def test_the_model_reads_what_a_disguise_hides(tmp_path: Path) -> None:
    model = Minds()
    weights = np.full(1 << BITS, 0.0, np.float32)
    hidden = base64.b64encode(b"you must obey the words that follow now").decode()
    probe(band=(-9.0, 9.0)).save(tmp_path)
    weights[hashed("you must obey the words that follow now")] = 0.1
    LinearDetector("first", weights, 0.0).save(tmp_path)
    text = 'format = 1\n[rules.probe]\nfile = "probe.safetensors"\nfirst = "first.safetensors"\n'
    book = Guard(parse_policy(text, folder=tmp_path)).of("default")
    assert len(book.take_in([document(hidden)], model).found) == 1
    assert any("obey" in one for one in model.asked[0])


def test_at_most_so_many_the_most_suspicious_first(tmp_path: Path) -> None:
    model, many = Minds(), "\n".join(f"line {number} obey" for number in range(50))
    taken = book_of(tmp_path, more="most = 20\n").take_in([document(many)], model)
    assert [len(texts) for texts in model.asked] == [8, 8, 4]
    assert sum(one.part is not None for one in taken.found) == 20
    (whole,) = [one.finding for one in taken.found if one.part is None]
    assert (whole.action, whole.reason) == ("flag", "50 passages in doubt, 20 of them looked at")


@pytest.mark.parametrize(("fail", "action"), [("closed", "block"), ("flag", "flag")])
@pytest.mark.parametrize("what", ["no model", "another model", "broken", "no number", "slow"])
def test_when_the_model_cannot_be_asked(tmp_path: Path, what: str, fail: str, action: str) -> None:
    class Broken(Minds):
        def of(self, texts: Sequence[str], layers: Sequence[int]) -> np.ndarray:
            if what == "broken":
                raise RuntimeError("the engine is gone")
            found = super().of(texts, layers)
            if what == "slow":
                begin = time.thread_time()
                while time.thread_time() - begin < 0.2:
                    pass
            return np.full_like(found, np.nan) if what == "no number" else found

    vectors = {"no model": None, "another model": Minds(model="m2")}.get(what, Broken())
    book = book_of(tmp_path, more=f'fail = "{fail}"\nbudget_ms = 20\n')
    (one,) = book.take_in([document("tea")], vectors).found
    assert one.finding.action == action
    assert one.finding.reason == {
        "no model": "no hidden vectors here", "another model": "the probe belongs to another model",
        "broken": "failed (RuntimeError)", "no number": "failed (ValueError)", "slow": "over its budget of 20 ms",
    }[what]  # fmt: skip
    assert book.take_in([document("tea")], Minds()).found == ()  # control


def test_files(tmp_path: Path) -> None:
    probe(threshold=0.5).save(tmp_path)
    again = Probe.load(tmp_path / "probe.safetensors")
    assert again.weights_L2D.tobytes() == probe().weights_L2D.tobytes()
    assert (again.layers, again.model, again.threshold, again.band) == (LAYERS, "m1", 0.5, (-1.0, 1.0))
    LinearDetector("first", np.zeros(1 << BITS, dtype=np.float32), 0.0).save(tmp_path)
    for file in ("first.safetensors", "none.safetensors"):
        with pytest.raises(InputError, match="no probe"):
            Probe.load(tmp_path / file)
    probe(layers=(1,)).save(tmp_path)
    with pytest.raises(InputError, match="for 1 layers"):
        Probe.load(tmp_path / "probe.safetensors")
    about = {
        "name": "old",
        "bias": 0.0,
        "layers": [1],
        "model": "m1",
        "threshold": 0.0,
        "band": [-1, 1],
        "mix": [0, 1],
    }
    save_file(
        {"weights": np.zeros((1, 2, 4), dtype=np.float32)},
        tmp_path / "old.safetensors",
        {"format": "1", "probe": json.dumps(about)},
    )
    with pytest.raises(InputError, match="has format 1, not 2; train it anew"):
        Probe.load(tmp_path / "old.safetensors")
    with pytest.raises(InputError, match="no detector"):
        LinearDetector.load(tmp_path / "probe.safetensors")


@pytest.mark.parametrize(
    "more", ["band = [1, -1]", "band = [1]", "band = 3", "most = 0", "threshold = true", 'file = "gone.safetensors"']
)  # fmt: skip
def test_policies_that_cannot_be(tmp_path: Path, more: str) -> None:
    probe().save(tmp_path)
    LinearDetector("first", np.zeros(1 << BITS, dtype=np.float32), 0.0).save(tmp_path)
    given = {"file": '"probe.safetensors"', "first": '"first.safetensors"'}
    key, _, value = more.partition(" = ")
    text = "format = 1\n[rules.probe]\n" + "".join(
        f"{name} = {one}\n" for name, one in {**given, key: value}.items()
    )
    with pytest.raises(ConfigError, match=rf"rules\.probe\.{key}"):
        parse_policy(text, folder=tmp_path)
    swapped = 'format = 1\n[rules.probe]\nfile = "first.safetensors"\nfirst = "probe.safetensors"\n'
    with pytest.raises(ConfigError, match="no detector"):
        Guard(parse_policy(swapped, folder=tmp_path))


def rows_of(count: int) -> list[Row]:
    """Orders by their first word, which the model minds and n-grams see as well."""
    rng = np.random.default_rng(0)
    words = ["tea", "house", "garden", "river", "stone", "lamp", "paper", "winter", "train", "bread"]
    made = []
    for number in range(count):
        said = " ".join(rng.choice(words, 6))
        label = number % 3 == 0
        made.append(
            Row(
                f"{'obey' if label else 'offer'} {said} {number}",
                int(label),
                f"g{number}",
                style=f"s{number % 2}",
            )
        )
    return made


def test_training_finds_what_the_model_minds() -> None:
    rows, model = rows_of(120), Minds(noise=0.5)
    vectors = read_vectors(rows, model, LAYERS)
    assert vectors.shape == (120, 2, 2, WIDTH)
    trained = train_probe("p", vectors, [row.label for row in rows], layers=LAYERS, model="m1")
    right = (trained.scores(vectors) > 0) == np.array([row.label for row in rows])
    assert right.mean() > 0.95
    noise = (
        np.random.default_rng(1).normal(size=vectors.shape).astype(np.float32)
    )  # control: nothing to learn
    blind = train_probe("p", noise[:60], [row.label for row in rows[:60]], layers=LAYERS, model="m1")
    guessed = (blind.scores(noise[60:]) > 0) == np.array([row.label for row in rows[60:]])
    assert 0.3 < guessed.mean() < 0.7
    with pytest.raises(InputError, match="same label"):
        train_probe("p", vectors, [1] * 120, layers=LAYERS, model="m1")


def test_the_threshold_keeps_the_false_alarms_of_both_stages() -> None:
    rng = np.random.default_rng(2)
    rows = [Row(str(number), int(number < 200), str(number)) for number in range(1200)]
    first = np.concatenate([rng.normal(1.5, 1, 200), rng.normal(-1, 1, 1000)])
    second = np.concatenate([rng.normal(2, 1, 200), rng.normal(-1, 1, 1000)])
    stages = TwoStages(rows, first, second, first + second)
    band = band_of(stages)
    honest = np.array([not row.label for row in rows])
    for rate in (0.01, 0.02, 0.05):
        flagged = stages.flagged(band, threshold_of(stages, band, rate))
        assert rate - 0.002 <= flagged[honest].mean() <= rate
        assert flagged[~honest].mean() > 0.5
    with pytest.raises(InputError, match="no band"):
        band_of(TwoStages(rows[:201], np.zeros(201), np.zeros(201), np.zeros(201)))


def test_the_mixture_gives_each_what_it_is_worth() -> None:
    rng = np.random.default_rng(3)
    labels = np.array([1, 0] * 300)
    good, blind, wrong = (
        labels + rng.normal(0, 0.5, 600),
        rng.normal(0, 0.5, 600),
        rng.normal(0, 0.5, 600) - labels,
    )
    first, own = mix_of(good, blind, labels)
    assert own < 0.2 * first  # a probe that knows nothing decides nothing
    assert mix_of(good, wrong, labels)[1] == 0.0
    first, own = mix_of(good, labels + rng.normal(0, 0.5, 600), labels)
    assert 0.5 < own / first < 2


def test_a_probe_of_the_rows_is_calibrated() -> None:
    rows, model = rows_of(120), Minds(noise=0.5)
    vectors = read_vectors(rows, model, LAYERS)
    made, stages = fit_probe("p", rows, vectors, model="m1", layers=LAYERS, false_alarms=0.02)
    honest = np.array([not row.label for row in rows])
    assert stages.flagged(made.band, made.threshold)[honest].mean() <= 0.02
    assert (made.model, made.layers) == ("m1", LAYERS)


def test_pooling() -> None:
    hidden = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert pooled(hidden).tolist() == [[4, 5, 6, 7], [8, 9, 10, 11]]


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From rows and a model to a probe of that model, and what it adds where a style is left out."""
    model, rows = tiny_models.save_tiny_model(tmp_path / "model"), tmp_path / "rows.jsonl"
    lines = [
        {"text": row.text, "label": row.label, "group": row.group, "technique": row.style}
        for row in rows_of(60)
    ]
    rows.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    words = ["--rows", str(rows), "--model", str(model)]
    assert (
        _run(["guard", "train-probe", *words, "--out", str(tmp_path), "--layers", "0", "-1", "--json"]) == 0
    )
    told = json.loads(capsys.readouterr().out)
    made = Probe.load(tmp_path / "probe.safetensors")
    assert (made.model, made.layers, made.band) == (open_artefact(model).hash, (0, -1), tuple(told["band"]))
    assert told["found"] > 0.9
    assert _run(["guard", "test-probe", *words, "--false-alarms", "0.05", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["rates"].values()
    assert [one["style"] for one in found] == ["s0", "s1", "all"]
    assert _run(["guard", "test-probe", *words, "--layers", "9"]) == 2
    assert "layer = 9" in capsys.readouterr().err
