"""The native sampler against its PyTorch form, and both against what the settings mean."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hanok.engine.api import SamplingParams
from hanok.engine.sampler import Choice, Draw, choose, choose_native, choose_plain, new_memory, uniform
from hanok.errors import ConfigError, HanokError, InputError
from hanok.kernels.native import native, native_available

needs_native = pytest.mark.skipif(not native_available(), reason="the native kernels are not built")


def bits(allowed: list[bool]) -> np.ndarray:
    padded = np.zeros(-(-len(allowed) // 32) * 32, dtype=np.uint8)
    padded[: len(allowed)] = allowed
    return np.packbits(padded, bitorder="little").view(np.uint32)


@st.composite
def rows(draw: st.DrawFn) -> tuple[Tensor, list[Draw]]:
    vocabulary = draw(st.sampled_from([1, 2, 7, 31, 32, 33, 300, 1030]))
    numbers = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale = draw(st.sampled_from([0.0, 0.5, 3.0, 30.0]))
    draws, logits = [], []
    for _ in range(draw(st.integers(1, 4))):
        row = numbers.normal(size=vocabulary) * scale
        logits.append(np.round(row) if draw(st.booleans()) else row)  # rounded: many ties
        draws.append(draw(draws_of(vocabulary)))
    return torch.tensor(np.array(logits), dtype=torch.float32), draws


@st.composite
def draws_of(draw: st.DrawFn, vocabulary: int) -> Draw:
    params = SamplingParams(
        temperature=draw(st.sampled_from([0.0, 1e-3, 0.7, 1.0, 5.0])),
        top_k=draw(st.sampled_from([0, 0, 1, 5, 40, 2000])),
        top_p=draw(st.sampled_from([1.0, 1.0, 0.95, 0.51, 1e-6])),
        min_p=draw(st.sampled_from([0.0, 0.0, 0.013, 0.9])),
        typical_p=draw(st.sampled_from([1.0, 1.0, 0.913, 0.2])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.0, 1.3, 0.8])),
        presence_penalty=draw(st.sampled_from([0.0, 0.0, 0.7])),
        frequency_penalty=draw(st.sampled_from([0.0, 0.0, 0.3, -1.1])),
        logit_bias=draw(
            st.dictionaries(st.integers(0, vocabulary - 1), st.sampled_from([-100.0, 2.5, 40.0]), max_size=3)
        ),
        logprobs=draw(st.sampled_from([None, 0, 3, 20])),
    )
    ids = st.lists(st.integers(0, vocabulary - 1), max_size=12)
    prompt_ids = draw(st.lists(st.integers(0, vocabulary + 5), max_size=12))
    allowed = draw(st.none() | st.lists(st.booleans(), min_size=vocabulary, max_size=vocabulary))
    return Draw(
        params, draw(st.integers(0, 2**63)), draw(st.integers(0, 3)), prompt_ids, draw(ids),
        draw(st.just(()) | st.lists(st.integers(0, vocabulary + 5), max_size=3).map(tuple)), None,
        None if allowed is None else bits(allowed),
    )  # fmt: skip


def assert_same(ours: list[Choice | HanokError], theirs: list[Choice | HanokError]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        if isinstance(one, HanokError) or isinstance(other, HanokError):
            assert (type(one), str(one)) == (type(other), str(other))
            continue
        assert one.token == other.token
        assert (one.logprob is None, one.top is None) == (other.logprob is None, other.top is None)
        if (
            one.logprob is not None
            and other.logprob is not None
            and one.top is not None
            and other.top is not None
        ):
            assert one.logprob == pytest.approx(other.logprob, rel=1e-12, abs=1e-12)
            assert list(one.top) == list(other.top)
            assert list(one.top.values()) == pytest.approx(list(other.top.values()), rel=1e-12, abs=1e-12)


@needs_native
@settings(max_examples=100)
@given(rows())
def test_native_chooses_as_pytorch_does(batch: tuple[Tensor, list[Draw]]) -> None:
    logits_BV, draws = batch
    expected = choose_plain(logits_BV, draws)
    for path in native().sample_paths():
        assert_same(choose_native(native(), logits_BV, draws, path), expected)


@needs_native
@pytest.mark.parametrize(
    "changes",
    [{}, {"top_p": 0.9}, {"top_k": 50}, {"top_k": 30_000}, {"min_p": 0.02}, {"typical_p": 0.5}, {"top_p": 0.8, "top_k": 200}],
    ids=str,
)  # fmt: skip
def test_native_chooses_as_pytorch_does_from_many(changes: dict[str, Any]) -> None:
    """Of a vocabulary of real size, in parallel."""
    logits_BV = 4.0 * torch.randn(8, 50_257, generator=torch.Generator().manual_seed(1))
    params = SamplingParams(temperature=0.9, repetition_penalty=1.1, logprobs=4, **changes)
    draws = [Draw(params, 5, b, range(100), range(b)) for b in range(8)]
    wide = torch.nn.functional.pad(
        logits_BV, (0, 40), value=math.nan
    )  # rows of the head beyond the vocabulary
    assert_same(choose(wide[:, :50_257], draws), choose_plain(logits_BV, draws))


@needs_native
def test_a_memory_that_is_told_every_token_changes_nothing() -> None:
    params = SamplingParams(repetition_penalty=1.4, presence_penalty=0.5, frequency_penalty=0.2, seed=3)
    memory, ids = new_memory(params, [1, 2]), list[int]()
    assert memory is not None
    greedy = SamplingParams(temperature=0.0)  # a memory of other params is not used
    logits_BV = torch.randn(1, 40, generator=torch.Generator().manual_seed(2)) * 2
    for _ in range(60):
        (fresh,) = choose(logits_BV, [Draw(params, 3, 0, [1, 2], ids)])
        kept = choose(logits_BV, [Draw(params, 3, 0, [1, 2], ids, (), memory)])
        assert kept == [fresh]
        assert isinstance(fresh, Choice)
        stale = choose(logits_BV, [Draw(params, 3, 0, [1, 2], [*ids, 7], (), memory)])
        assert stale == choose(logits_BV, [Draw(params, 3, 0, [1, 2], [*ids, 7])])
        assert choose(logits_BV, [Draw(greedy, 3, 0, [1, 2], ids, (), memory)])[0].token == logits_BV.argmax()  # type: ignore[union-attr]
        ids.append(fresh.token)
        memory.follow(ids)


@pytest.mark.parametrize("form", ["plain", pytest.param("native", marks=needs_native)])
class TestBothForms:
    @staticmethod
    def choose(form: str, logits_BV: Tensor, draws: list[Draw]) -> list[Choice | HanokError]:
        return (
            choose_plain(logits_BV, draws) if form == "plain" else choose_native(native(), logits_BV, draws)
        )

    def test_frequencies_are_the_softmax(self, form: str) -> None:
        logits_V = torch.tensor([0.0, 1.0, 2.0, -3.0])
        params = SamplingParams(temperature=1.5)
        draws = [Draw(params, 9, n, (), ()) for n in range(6000)]
        chosen = self.choose(form, logits_V.expand(6000, 4).contiguous(), draws)
        share = np.bincount([one.token for one in chosen if isinstance(one, Choice)], minlength=4) / 6000
        assert share == pytest.approx((logits_V / 1.5).softmax(-1).numpy(), abs=0.02)

    @pytest.mark.parametrize(
        ("changes", "names", "settings"),
        [
            ({"top_k": 7}, ["TopKLogitsWarper"], [{"top_k": 7}]),
            ({"top_p": 0.7}, ["TopPLogitsWarper"], [{"top_p": 0.7}]),
            ({"min_p": 0.1}, ["MinPLogitsWarper"], [{"min_p": 0.1}]),
            ({"typical_p": 0.6}, ["TypicalLogitsWarper"], [{"mass": 0.6}]),
            (
                {"top_k": 30, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.8},
                ["TopKLogitsWarper", "TopPLogitsWarper", "MinPLogitsWarper", "TypicalLogitsWarper"],
                [{"top_k": 30}, {"top_p": 0.9}, {"min_p": 0.02}, {"mass": 0.8}],
            ),
        ],
        ids=["top_k", "top_p", "min_p", "typical_p", "all"],
    )
    def test_transformers_keeps_the_same_tokens(
        self, form: str, changes: dict[str, Any], names: list[str], settings: list[dict[str, Any]]
    ) -> None:
        process = pytest.importorskip("transformers.generation.logits_process")
        for seed in range(5):
            logits_V = 2 * torch.randn(60, generator=torch.Generator().manual_seed(seed))
            scores = logits_V[None] / 0.8
            for name, keywords in zip(names, settings, strict=True):
                scores = getattr(process, name)(**keywords)(torch.zeros(1, 0, dtype=torch.long), scores)
            expected = scores[0].softmax(-1)
            draws = [Draw(SamplingParams(temperature=0.8, **changes), 3, n, (), ()) for n in range(1500)]
            chosen = self.choose(form, logits_V.expand(1500, 60).contiguous(), draws)
            share = np.bincount([one.token for one in chosen if isinstance(one, Choice)], minlength=60) / 1500
            assert not share[(expected == 0).numpy()].any()
            assert share == pytest.approx(expected.numpy(), abs=0.06)

    @pytest.mark.parametrize("penalty", [1.0, 1.3])
    def test_a_law_of_this_token_takes_the_place_of_the_requests(self, form: str, penalty: float) -> None:
        logits_BV = 4 * torch.randn(200, 60, generator=torch.Generator().manual_seed(4))
        free = SamplingParams(repetition_penalty=penalty, frequency_penalty=penalty - 1)
        cold = SamplingParams(
            temperature=0.4, top_p=0.7, repetition_penalty=penalty, frequency_penalty=penalty - 1
        )
        memory, ids = new_memory(free, [1, 2], [3, 4]), [3, 4]
        chosen = self.choose(
            form, logits_BV, [Draw(free, 5, n, [1, 2], ids, (), memory, law=(0.4, 0.7)) for n in range(200)]
        )
        assert chosen == self.choose(form, logits_BV, [Draw(cold, 5, n, [1, 2], ids) for n in range(200)])
        assert chosen != self.choose(form, logits_BV, [Draw(free, 5, n, [1, 2], ids) for n in range(200)])

    def test_greedy_ties_go_to_the_lowest_id(self, form: str) -> None:
        logits_BV = torch.tensor([[1.0, 5.0, 5.0, 0.0] * 30])
        assert self.choose(form, logits_BV, [Draw(SamplingParams(temperature=0.0), 0, 0, (), ())]) == [
            Choice(1, None, None)
        ]

    def test_a_mask_bans_what_it_leaves_out(self, form: str) -> None:
        logits_BV = torch.arange(40.0)[None]
        only = bits([n in (3, 33) for n in range(40)])
        greedy = SamplingParams(temperature=0.0)
        assert self.choose(form, logits_BV, [Draw(greedy, 0, 0, (), (), allowed=only)])[0].token == 33  # type: ignore[union-attr]
        banned = self.choose(form, logits_BV, [Draw(greedy, 0, 0, (), (), (33,), allowed=only)])
        assert banned[0].token == 3  # type: ignore[union-attr]

    def test_rows_that_cannot_be_chosen_from_fail_alone(self, form: str) -> None:
        logits_BV = torch.zeros(3, 4)
        logits_BV[0, 2] = math.inf
        params = SamplingParams()
        draws = [Draw(params, 0, 0, (), ()), Draw(params, 0, 0, (), (), range(4)), Draw(params, 0, 0, (), ())]
        broken, empty, fine = self.choose(form, logits_BV, draws)
        assert isinstance(broken, HanokError)
        assert "not finite" in str(broken)
        assert isinstance(empty, InputError)
        assert isinstance(fine, Choice)


HELD_AT_THE_END = """
import threading, time
from hanok.engine.api import SamplingParams
from hanok.engine.sampler import new_memory
def hold():
    memory = new_memory(SamplingParams(), [1])
    held.set()
    time.sleep(100)
held = threading.Event()
threading.Thread(target=hold, daemon=True).start()
held.wait()
"""


@needs_native
def test_what_a_daemon_thread_holds_at_the_end_is_no_news() -> None:
    done = subprocess.run([sys.executable, "-c", HELD_AT_THE_END], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_kernels_the_plain_form_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hanok.engine.sampler.native", lambda: None)
    params = SamplingParams(top_p=0.9, repetition_penalty=1.2, logprobs=1)
    assert new_memory(params, [1]) is None
    logits_BV = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    draws = [Draw(params, 1, b, [1], [2, 3]) for b in range(3)]
    assert choose(logits_BV, draws) == choose_plain(logits_BV, draws)


@needs_native
def test_a_short_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        choose(torch.zeros(1, 33), [Draw(SamplingParams(), 0, 0, (), (), allowed=np.zeros(1, np.uint32))])


def test_the_numbers_of_a_seed_stay() -> None:
    """Answers of a seed are the same in every version."""
    found = [uniform(0, 0, 0), uniform(7, 1, 2), uniform(2**64 - 1, 3, 10**6)]
    assert found == [0.1808588112181675, 0.24723263585694466, 0.5228781657025339]


@pytest.mark.parametrize("value", [0.0, 1.5])
def test_typical_p_has_bounds(value: float) -> None:
    with pytest.raises(ConfigError, match="typical_p"):
        SamplingParams(typical_p=value)
