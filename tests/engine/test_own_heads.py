"""A model's own heads: what they guess is what the heads say in training, however the text came and whatever was taken back."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from hanok.engine.native import NativeDecoder
from hanok.engine.paged import PagedScheduler
from hanok.engine.running import Running
from hanok.engine.speculation import own
from hanok.engine.speculation.own import OwnHeads
from hanok.engine.speculation.pace import Pace
from hanok.engine.speculation.speculator import Speculator
from hanok.kernels.native import native_available
from hanok.models.decoder import Decoder
from hanok.models.ragged import Ragged

pytestmark = pytest.mark.skipif(not native_available(), reason="the native kernels are not built")
DEEP = 4


class Sometimes(Pace):
    """Four guesses so many times, then none and a pause."""

    def __init__(self, on: int, pause: int) -> None:
        super().__init__(recurrent=False)
        self.on, self.pause, self.asked = on, pause, 0

    def lengths(self, offers, rows, **_costs):
        self.asked += 1
        return [min(offer.limit, DEEP) if self.asked % (self.on + 1) else 0 for offer in offers]

    def rest(self, rows, cost):
        return self.pause


class Watched(OwnHeads):
    """Notes each proposal: the text, where the heads began in it, the guesses, and the logits behind each."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[tuple[list[int], list[int], list[int], list[Tensor]]] = []

    def propose(self, limits):
        logits: dict[Running, list[Tensor]] = {running: [] for running in limits}
        reads = [head.read for head in self._heads]
        going: list[list[Running]] = []
        feed = self._feed

        def feeding(running, *rest):
            found = feed(running, *rest)
            if found is not None:
                going[-1].append(running)
            return found

        def reading(head):
            def read(feeds):
                logits_BV, outs = reads[head](feeds)
                for running, row in zip(going[-1], logits_BV, strict=True):
                    logits[running].append(row.clone())
                going.append([])
                return logits_BV, outs

            return read

        going.append([])
        self._feed = feeding  # type: ignore[method-assign]
        for number, head in enumerate(self._heads):
            head.read = reading(number)  # type: ignore[method-assign]
        guesses = super().propose(limits)
        for running, tokens in guesses.items():
            firsts = [place.first for place in self._places[running]]
            self.seen.append((running.tokens(0, running.length), firsts, tokens, logits[running]))
        self._feed = feed  # type: ignore[method-assign]
        for head, read in zip(self._heads, reads, strict=True):
            head.read = read  # type: ignore[method-assign]
        return guesses


@torch.no_grad()
def expected(decoder: Decoder, text: list[int], first: int, guesses: list[int], depth: int) -> Tensor:
    """Logits of one guess, by the path that training takes, over the text from `first` on."""
    last = len(text) - 2
    hidden, _ = decoder(torch.tensor(text[: last + 1]), torch.tensor([0, last + 1], dtype=torch.int32))
    behind = inputs = hidden[first:]
    whole, heads = torch.tensor([*text, *guesses])[first:], len(decoder.mtp)
    for step in range(depth + 1):
        if step >= heads:  # the last head reads on, with its own vector of the place before
            inputs = torch.cat([inputs, behind[-1:]])
        else:
            inputs = behind
        head = min(step, heads - 1)
        following = decoder.embed_tokens(whole[head + 1 :][: len(inputs)])
        ragged = Ragged(torch.tensor([0, len(inputs)], dtype=torch.int32))
        behind = decoder.mtp[head](inputs, following, ragged)
    return decoder.logits(behind[-1:])[0]


def answers(
    small: ModuleType, decoder: Decoder, pace: Pace, prompts: list[list[int]], tokens: int = 40
) -> Watched:
    """Several at once, drawn from two tokens so that about half of all guesses hold, checked against those without guesses."""
    model = NativeDecoder(decoder, kind="bf16", blocks=40, threads=2, slots=4, spares=4, snapshots=4)
    heads = Watched(decoder, model, vocabulary=90, texts=4, threads=2)

    def some():
        return [
            small.generation_of(n, prompt, tokens, temperature=1.0, logit_bias={7: 60.0, 8: 60.0})
            for n, prompt in enumerate(prompts)
        ]

    plain, guessed = some(), some()
    small.run(PagedScheduler(model, max_running=4, vocabulary=90), *plain)
    model.pool.forget_all()
    speculator = Speculator(lookup=None, draft=heads, pace=pace)
    scheduler = PagedScheduler(model, max_running=4, vocabulary=90, speculator=speculator)
    small.run(scheduler, *guessed)
    heads.check()
    assert [g.ids for g in guessed] == [g.ids for g in plain]
    assert 0 < scheduler.counters.accepted_tokens < scheduler.counters.drafted_tokens
    return heads


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("kind", ["full", "hybrid", "recurrent"])
def test_they_say_what_they_learnt_to_say(small: ModuleType, kind: str, layers: int) -> None:
    decoder = small.decoder_of(kind, mtp_layers=layers, noise=0.1)
    prompts = [[3 * n % 90 for n in range(length)] for length in (1, 2, 70, 130)]
    heads = answers(small, decoder, Sometimes(1000, 0), prompts)
    assert len(heads.seen) > 50
    for text, firsts, guesses, logits in heads.seen[::7]:
        assert set(firsts) == {0}
        for depth, found in enumerate(logits):
            wanted = expected(decoder, text, 0, guesses, depth)
            assert (found - wanted).norm() < 0.1 * wanted.norm(), (len(text), depth)
        other = expected(decoder, [*text[:-1], (text[-1] + 40) % 90], 0, guesses, 0)
        assert (logits[0] - other).norm() > 0.2 * other.norm()  # another token makes more of a difference


@pytest.mark.parametrize("kind", ["full", "hybrid", "recurrent"])
def test_after_a_pause_they_begin_with_the_last_tokens(
    small: ModuleType, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own, "KEEP", 8)
    decoder = small.decoder_of(kind, mtp_layers=1, noise=0.1)
    heads = answers(small, decoder, Sometimes(3, 3), [list(range(30)), [5, 6, 7]], tokens=150)
    begun = {firsts[0] for _, firsts, _, _ in heads.seen}
    assert len(begun) > 3
    for text, firsts, guesses, logits in heads.seen[::3]:
        if logits:
            wanted = expected(decoder, text, firsts[0], guesses, 0)
            assert (logits[0] - wanted).norm() < 0.1 * wanted.norm()


@pytest.mark.parametrize(("bias", "least", "most"), [({}, 0.95, 1.05), ({7: 90.0}, 2.0, 16.0)])
@pytest.mark.parametrize("kind", ["full", "hybrid"])
def test_they_are_asked_only_where_it_pays(
    small: ModuleType, kind: str, bias: dict[int, float], least: float, most: float
) -> None:
    """On a clock of its own: a step takes 1 + 0.1 for each further row, a guess of a head 0.1. Heads that learnt nothing cost
    next to nothing; where every guess holds, answers come in a fraction of the time."""
    decoder = small.decoder_of(kind, mtp_layers=1)
    model, now = small.native_of(decoder, 40), [0.0]
    heads = OwnHeads(decoder, model, vocabulary=90, texts=2, threads=2)
    speculator = Speculator(
        lookup=None, draft=heads, pace=Pace(recurrent=kind == "hybrid"), clock=lambda: now[0]
    )
    scheduler = PagedScheduler(
        model, max_running=4, vocabulary=90, speculator=speculator, clock=lambda: now[0]
    )
    step, read = model.step_with_hidden, heads._heads[0].read

    def timed(ids, *rest, **options):
        now[0] += 1 + 0.1 * (len(ids) - 1)
        return step(ids, *rest, **options)

    def asked(feeds):
        now[0] += 0.1
        return read(feeds)

    model.step_with_hidden = timed  # type: ignore[method-assign]
    heads._heads[0].read = asked  # type: ignore[method-assign]
    tokens = 560
    small.run(scheduler, small.generation_of(0, [1, 2, 3], tokens, logit_bias=bias))
    assert least < tokens / now[0] < most
