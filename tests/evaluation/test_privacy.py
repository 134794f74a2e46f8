"""The audit of privacy: its statistics against oracles, its attacks on models that know and do not know their texts."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu, skewnorm

from hanok.artefacts import sha256_file
from hanok.cli import _run
from hanok.data.canaries import FILE, add_canaries, make_canaries, read_canaries
from hanok.data.config import CanaryConfig
from hanok.data.corpus import read_corpus
from hanok.errors import ArtefactError
from hanok.evaluation.privacy import audit, control
from hanok.evaluation.privacy.audit import audit_privacy, samples
from hanok.evaluation.privacy.config import PrivacyConfig
from hanok.evaluation.privacy.exposure import (
    Exposure,
    exposure,
    exposure_of,
    log2_tail,
    sequence_losses,
    texts_of,
)
from hanok.evaluation.privacy.scores import Sample, familiarity, scores
from hanok.evaluation.privacy.separation import roc, separate
from hanok.models.checkpoint import load_model, save_model
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder

WORDS = [
    "--members",
    "chat-train",
    "--others",
    "chat-validation",
    "chat-test",
    "--length",
    "64",
    "--least",
    "16",
]
QUICK = PrivacyConfig(
    members="chat-train",
    others=("chat-validation", "chat-test"),
    texts=24,
    length=64,
    least=16,
    alternatives=1000,
)


def test_the_area_is_that_of_mann_and_whitney() -> None:
    rng = np.random.default_rng(1)
    for shift in (0.0, 0.3, 2.0):
        members, others = (
            np.round(rng.normal(shift, 1, 80), 1),
            np.round(rng.normal(0, 1, 120), 1),
        )  # with ties
        found = separate(members.tolist(), others.tolist())
        assert found.auc == pytest.approx(mannwhitneyu(members, others).statistic / (80 * 120))
        false, true = roc(members, others)
        assert np.trapezoid(true, false) == pytest.approx(found.auc)


def test_the_interval_holds_what_it_says() -> None:
    """95 % of 400 intervals hold the true area of two normal laws a deviation apart."""
    rng, true = np.random.default_rng(2), 0.5 * math.erfc(-0.5)
    held = 0
    for _ in range(400):
        found = separate(rng.normal(1, 1, 60).tolist(), rng.normal(0, 1, 60).tolist())
        held += found.low <= true <= found.high
    assert 0.91 <= held / 400 <= 0.985


def test_found_at_few_false_alarms() -> None:
    others = [float(n) for n in range(200)]
    found = separate([197.0, 197.5, 250.0, 0.0], others)
    assert found.tpr.right == 2  # two of 200 others lie above 197, which is 1 %
    assert separate([1.0, 2.0], [1.0, 2.0]).auc == 0.5


@pytest.mark.parametrize("alpha", [-6.0, 0.0, 3.0])
def test_tails_are_the_skew_normals(alpha: float) -> None:
    law = skewnorm(alpha, loc=20.0, scale=3.0)
    sample = law.rvs(200_000, random_state=1)
    for p in (1e-2, 1e-4, 1e-7):
        value = float(law.ppf(p))
        assert log2_tail(value, sample) == pytest.approx(math.log2(p), rel=0.12)


def test_exposure_counts_where_it_can() -> None:
    sample = np.random.default_rng(3).normal(30, 2, 10_000)
    middle = exposure_of(30.0, sample, most=26.6)
    assert middle.counted
    assert middle.bits == pytest.approx(1.0, abs=0.1)
    known = exposure_of(1.0, sample, most=26.6)
    assert not known.counted
    assert known.bits == 26.6
    assert exposure_of(99.0, sample, most=26.6).bits == 0.0


def test_losses_read_the_shared_beginning_once(house: Any) -> None:
    decoder = load_model(house.model).requires_grad_(False)
    texts = house.tokenizer.encode_batch([f"The number is {n}." for n in ("12", "3456", "1", "99999")])
    for text, loss in zip(texts, sequence_losses(decoder, texts), strict=True):
        hidden_ND, _ = decoder(torch.tensor(text[:-1]), torch.tensor([0, len(text) - 1], dtype=torch.int32))
        nats_N = torch.nn.functional.cross_entropy(
            decoder.logits(hidden_ND), torch.tensor(text[1:]), reduction="none"
        )
        shared = next(n for n in range(99) if len({tuple(one[: n + 1]) for one in texts}) > 1)
        assert loss == pytest.approx(float(nats_N[shared - 1 :].sum()), rel=1e-3)


def test_scores_are_what_they_say(house: Any) -> None:
    decoder = load_model(house.model).requires_grad_(False)
    ids = house.tokenizer.encode("한옥 마을의 찻집은 아홉 시에 문을 엽니다. The tea house opens at nine.")
    counted = np.ones(len(ids), dtype=bool)
    counted[3:6] = False
    sample = Sample(ids, counted, house.tokenizer.decode(ids))
    mine = familiarity(decoder, sample)
    hidden_ND, _ = decoder(torch.tensor(ids[:-1]), torch.tensor([0, len(ids) - 1], dtype=torch.int32))
    logprobs_NV = decoder.logits(hidden_ND).double().log_softmax(-1)
    by_hand = [(float(row[token]), row) for row, token in zip(logprobs_NV, ids[1:], strict=True)]
    wanted = [one for one, keep in zip(by_hand, counted[1:], strict=True) if keep]
    assert mine.logprobs == pytest.approx([value for value, _ in wanted], abs=1e-4)
    plus = [
        (value - float((row.exp() * row).sum()))
        / math.sqrt(float((row.exp() * row**2).sum() - (row.exp() * row).sum() ** 2))
        for value, row in wanted
    ]
    assert mine.standardised == pytest.approx(plus, rel=1e-3)
    found = scores(sample, mine, mine)
    lowest = sorted(value for value, _ in wanted)[: round(0.2 * len(wanted))]
    assert found["min-k"] == pytest.approx(np.mean(lowest), rel=1e-4)
    assert found["reference"] == 0.0


def test_canaries_lie_in_a_corpus_as_often_as_they_say(house: Any, tmp_path: Path) -> None:
    config = CanaryConfig(repetitions=(1, 5), each=3)
    out = add_canaries(config, house.village, tmp_path / "out").path
    before, after = list(read_corpus(house.village)), list(read_corpus(out))
    rest = [one.id for one in after if one.source != "canary"]
    assert rest == [one.id for one in before]
    planted = read_canaries(out)
    assert [one.repetitions for one in planted] == [0] * 3 + [1] * 3 + [5] * 3
    for one in planted:
        assert sum(document.text == one.text for document in after) == one.repetitions
    assert len({one.prefix for one in planted}) == 9
    assert make_canaries(config) == planted  # the same seed, the same canaries
    with pytest.raises(ArtefactError, match="canaries already"):
        add_canaries(config, out, tmp_path / "again")


def overfitted(house: Any, tmp_path: Path, texts: list[list[int]], steps: int) -> Path:
    """A model directory that was taught these alone."""
    config = ModelConfig(
        vocab_size=house.tokenizer.vocab_size, hidden_size=64, num_layers=2, pattern=("kda", "gqa"), num_heads=4,
        num_kv_heads=4, head_dim=16, intermediate_size=128, max_context=256,
    )  # fmt: skip
    decoder = Decoder(config, generator=torch.Generator().manual_seed(1))
    ids_N = torch.tensor([token for ids in texts for token in ids[:-1]])
    targets_N = torch.tensor([token for ids in texts for token in ids[1:]])
    bounds = torch.tensor([0, *np.cumsum([len(ids) - 1 for ids in texts]).tolist()], dtype=torch.int32)
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=0.01)
    for _ in range(steps):
        hidden_ND, _ = decoder(ids_N, bounds)
        loss = torch.nn.functional.cross_entropy(decoder.logits(hidden_ND), targets_N)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    directory = tmp_path / "model"
    save_model(decoder, directory)
    house.tokenizer.save(directory)
    return directory


@pytest.fixture(scope="module")
def leaking(
    house: Any, open_house: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A model that knows its members by heart and a canary too, and the file of the canaries."""
    root = tmp_path_factory.mktemp("leaking")
    planted = make_canaries(CanaryConfig(repetitions=(1,), each=2))
    (root / FILE).write_text(
        "".join(json.dumps(dataclasses.asdict(one)) + "\n" for one in planted), encoding="utf-8"
    )
    members = [list(one.ids) for one in samples(open_house(), [QUICK.members], house.tokenizer, QUICK)]
    canaries = [
        [house.tokenizer.bos_id, *house.tokenizer.encode(one.text)] for one in planted if one.repetitions
    ]
    return overfitted(house, root, [*members, *canaries], 50), root / FILE


@pytest.fixture(scope="module")
def open_house(house: Any) -> Callable[[], Any]:
    from hanok.artefacts.shards import open_shards

    return lambda: open_shards(house.shards, verify=False)


def test_a_model_that_knows_its_texts_by_heart_fails(
    house: Any, leaking: tuple[Path, Path], tmp_path: Path
) -> None:
    model, canaries = leaking
    artefact, found = audit_privacy(
        QUICK,
        model=model,
        shards=house.shards,
        reference=house.model,
        canaries=canaries,
        out=tmp_path / "out",
    )
    assert found.verdict == "failed"
    for name in ("loss", "zlib", "min-k", "min-k++", "reference"):
        assert found.attacks[name].auc > 0.95, name
    bits = found.exposures()
    assert min(bits[1]) > max(bits[0]) + 3
    results = json.loads((artefact.path / "results.json").read_text())
    assert results["control"]["found"] is True
    assert any("put in once" in reason for reason in results["reasons"])
    page = (artefact.path / "report.html").read_text()
    assert "FAILED" in page
    assert "<svg" in page


def test_an_untrained_model_passes_and_it_is_in_the_audit(
    house: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hanok.store.audit.log import AuditLog
    from hanok.store.audit.place import audit_place
    from hanok.store.audit.reader import Reader, Wanted
    from hanok.store.database import Store

    store = tmp_path / "store.sqlite"
    Store(store).close()
    AuditLog(audit_place(store)).close()
    words = [*WORDS, "--shards", str(house.shards), "--texts", "100", "--most-auc", "0.7"]
    code = _run(
        [
            "audit",
            "privacy",
            str(house.model),
            *words,
            "--out",
            str(tmp_path / "out"),
            "--store",
            str(store),
            "--json",
        ]
    )
    result = json.loads(capsys.readouterr().out)
    assert (code, result["verdict"], result["audit_entry"]) == (0, "passed", True)
    with Reader(audit_place(store)) as reader:
        (entry,) = reader.list(Wanted(kind="privacy.audit"), limit=5)
    assert entry["facts"]["verdict"] == "passed"
    assert entry["facts"]["control.auc"] >= 0.9


def canaries_file(place: Path, repetitions: Sequence[int], *, controls: bool = True) -> Path:
    """As `hanok data canaries` writes it, with or without those that were never put in."""
    made = make_canaries(CanaryConfig(repetitions=tuple(repetitions), each=1))
    rows = [dataclasses.asdict(one) for one in made if controls or one.repetitions]
    place.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return place


@pytest.mark.parametrize(
    ("repetitions", "controls", "lacks"),
    [((4,), True, "none was put in once"), ((1, 4), False, "none was never put in"), ((1,), True, None)],
)
def test_an_exposure_that_cannot_be_judged_is_no_pass(
    repetitions: Sequence[int], controls: bool, lacks: str | None, house: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Where canaries put in once, or those never put in, are missing from the file, and where both are there."""
    monkeypatch.setattr(audit, "run_control", _found_control)
    file = canaries_file(tmp_path / FILE, repetitions, controls=controls)
    words = [
        *WORDS,
        "--shards",
        str(house.shards),
        "--texts",
        "100",
        "--most-auc",
        "0.7",
        "--alternatives",
        "1000",
    ]
    code = _run(
        [
            "audit",
            "privacy",
            str(house.model),
            *words,
            "--canaries",
            str(file),
            "--out",
            str(tmp_path / "out"),
            "--json",
        ]
    )
    shown = capfd.readouterr()
    result = json.loads(shown.out)
    told = json.loads((tmp_path / "out" / "results.json").read_text())
    if lacks is None:
        assert (code, result["verdict"], told["judged"]) == (0, "passed", ["membership", "exposure"])
        return
    assert (code, result["verdict"], told["judged"]) == (1, "incomplete", ["membership"])
    assert lacks in told["unjudged"][0]
    assert "the audit is incomplete" in shown.err
    assert "INCOMPLETE" in (tmp_path / "out" / "report.html").read_text()


def _found_control(
    members: Sequence[Sample], others: Sequence[Sample], *_: Any, **__: Any
) -> control.Control:
    """One that was found, without the training."""
    found = separate([1.0, 2.0], [0.0, 0.5])
    return control.Control(
        {"loss": found, "blind": found}, Exposure(20.0, 26.6, 0.0, 30.0, 2.0, False), 1, 0.0
    )


def test_a_file_without_any_canary_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("\n", encoding="utf-8")
    with pytest.raises(ArtefactError, match="it is empty"):
        read_canaries(tmp_path)


def test_the_corpus_of_canaries_is_a_parent(
    house: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or, of a file alone, its hash is among the settings."""
    monkeypatch.setattr(audit, "run_control", _found_control)
    corpus = add_canaries(CanaryConfig(repetitions=(1,), each=1), house.village, tmp_path / "canaries")
    file = canaries_file(tmp_path / FILE, (1,))
    given = {"model": house.model, "shards": house.shards, "reference": None}
    with_corpus, _ = audit_privacy(QUICK, **given, canaries=corpus.path, out=tmp_path / "one")
    with_file, _ = audit_privacy(QUICK, **given, canaries=file, out=tmp_path / "other")
    assert with_corpus.parents["canaries"] == corpus.hash
    assert "canaries" not in with_file.parents
    assert with_file.step["canaries"] == sha256_file(file)
    (corpus.path / FILE).write_text(file.read_text() + "\n")
    with pytest.raises(ArtefactError, match=FILE):
        audit_privacy(QUICK, **given, canaries=corpus.path, out=tmp_path / "third")


def test_the_controls_attacks_read_what_it_was_taught(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts that begin alike and go on differently: behind the cut nothing may be seen of them, by zlib neither."""
    monkeypatch.setattr(control, "_MOST_STEPS", 1)
    beginnings = [
        house.tokenizer.encode(f"{n} 한옥 마을의 찻집은 아홉 시에 문을 엽니다. " * 8)[:64] for n in range(16)
    ]
    sides = [
        [whole(house.tokenizer, [*ids, *house.tokenizer.encode(rest * 40)[:64]]) for ids in beginnings]
        for rest in ("aaaaaaaa", "The tea house opens at nine; 찻집 9:47 q%z ")
    ]
    apart = [
        [scores(one, familiarity(load_model(house.model), one), None)["blind"] for one in side]
        for side in sides
    ]
    assert separate(*apart).auc > 0.9
    attacks = control.run_control(*sides, house.tokenizer).attacks
    assert attacks["blind"].auc == attacks["zlib"].auc == 0.5


def whole(tokenizer: Any, ids: list[int]) -> Sample:
    return Sample(ids, np.ones(len(ids), dtype=bool), tokenizer.decode(ids))


def test_an_audit_that_does_not_find_its_control_says_that_it_is_broken(
    house: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(control, "_MOST_STEPS", 1)  # the control knows nothing by heart
    words = [*WORDS, "--shards", str(house.shards), "--texts", "24"]
    code = _run(["audit", "privacy", str(house.model), *words, "--out", str(tmp_path / "out"), "--json"])
    assert code == 1
    shown = capfd.readouterr()
    assert json.loads(shown.out)["verdict"] == "broken"
    assert "broken" in shown.err


def test_exposure_of_what_was_learnt_and_what_was_not(house: Any, leaking: tuple[Path, Path]) -> None:
    decoder = load_model(leaking[0])
    known, unknown = (
        next(one for one in read_canaries(leaking[1]) if one.repetitions == count) for count in (1, 0)
    )
    texts = {
        one.id: [
            [house.tokenizer.bos_id, *ids]
            for ids in house.tokenizer.encode_batch(texts_of(one, 1000, seed=1))
        ]
        for one in (known, unknown)
    }
    assert exposure(decoder, texts[known.id], known).bits > 12
    assert exposure(decoder, texts[unknown.id], unknown).bits < 12
