"""Scheduling within the cache's blocks: whatever comes, goes and is pushed out, answers are those of an empty engine."""

from __future__ import annotations

import random
from types import ModuleType

import pytest
import torch

from hanok.engine.blocks import BLOCK, BlockPool, block_names
from hanok.engine.generation import Generation
from hanok.engine.native import NativeDecoder
from hanok.engine.snapshots import SnapshotPool
from hanok.errors import CapacityError
from hanok.kernels.native import native_available
from hanok.models.decoder import Decoder

pytestmark = pytest.mark.skipif(not native_available(), reason="the native kernels are not built")


@pytest.fixture(scope="module", params=["full", "hybrid", "recurrent"])
def decoder(request: pytest.FixtureRequest, small: ModuleType) -> Decoder:
    return small.decoder_of(request.param)


@pytest.mark.parametrize(("seed", "blocks", "snapshots"), [(1, 11, 1), (2, 14, 3), (3, 40, 12), (4, 13, 0)])
def test_any_load_any_cache(
    small: ModuleType, decoder: Decoder, seed: int, blocks: int, snapshots: int
) -> None:
    draw = random.Random(seed)
    scheduler = small.scheduler_of(
        decoder, blocks, draw.choice([2, 5, 9]), snapshots, clock=small.irregular_clock(seed)
    )
    openings = [[draw.randrange(90) for _ in range(200)] for _ in range(2)]
    everyone: list[Generation] = []
    cancelled = set()

    def arrival() -> Generation:
        """A new text, one that begins like another, or the next turn of a conversation."""
        prompt = [draw.randrange(90) for _ in range(draw.choice([1, 5, 63, 64, 65, 300]))]
        tenant = draw.choice("ab")
        finished = [g for g in everyone if g.finish_reason and g.usage.prompt_tokens < 200]
        if finished and draw.random() < 0.4:
            before = draw.choice(finished)
            prompt = [*before.request.prompt_ids, *before.ids, *prompt[:20]]
            tenant = before.request.tenant
        elif draw.random() < 0.5:
            prompt = [*draw.choice(openings)[: draw.choice([64, 130, 200])], *prompt]
        return small.generation_of(
            len(everyone), prompt, draw.choice([1, 3, 70]), priority=draw.choice([0, 0, 1]), tenant=tenant
        )

    while len(everyone) < 24 or scheduler.has_work():
        for _ in range(draw.choice([0, 0, 1, 2])):
            if len(everyone) < 24:
                everyone.append(arrival())
                scheduler.add(everyone[-1])
        if everyone and draw.random() < 0.03:
            victim = draw.choice(everyone)
            if victim.finish_reason is None:
                victim.cancelled = True
                cancelled.add(victim.arrival)
        scheduler.step()
        scheduler.check()
    assert scheduler._model.pool.free == blocks
    for generation in everyone:
        if generation.arrival in cancelled:
            assert generation.finish_reason in ("cancelled", "length")
        else:
            assert generation.ids == small.alone(decoder, generation)
    if blocks == 40:
        assert any(generation.cached for generation in everyone)
    assert snapshots or not scheduler._snapshots.restored


def test_a_second_turn_reads_only_what_is_new(small: ModuleType, decoder: Decoder) -> None:
    scheduler = small.scheduler_of(decoder, blocks=20)
    first = small.generation_of(0, [n % 90 for n in range(330)], 20)
    scheduler.add(first)
    while scheduler.has_work():
        scheduler.step()
    second = small.generation_of(2, [*first.request.prompt_ids, *first.ids, 5, 6, 7], 5)
    other = small.generation_of(4, list(second.request.prompt_ids), 5, tenant="another")
    for generation in (second, other):
        scheduler.add(generation)
        while scheduler.has_work():
            scheduler.step()
    assert second.usage.cached_tokens == (330 + 20 - 1) // BLOCK * BLOCK
    assert other.usage.cached_tokens == 0
    assert second.ids == other.ids == small.alone(decoder, second)


def test_a_third_text_with_the_same_beginning_goes_on_where_two_parted(
    small: ModuleType, decoder: Decoder
) -> None:
    """Of a recurrent model, the first text left no snapshot there; the second, which is read anew, does."""
    scheduler = small.scheduler_of(decoder, blocks=30)
    beginning = [7 * n % 90 for n in range(200)]
    texts = [small.generation_of(n, [*beginning, *[n] * 100], 3) for n in range(3)]
    for generation in texts:
        small.run(scheduler, generation)
        assert generation.ids == small.alone(decoder, generation)
    recurrent = "kda" in decoder.config.layers
    assert [g.cached for g in texts] == [0, 0 if recurrent else 192, 192]


def test_long_prompts_are_kept_at_some_borders(small: ModuleType, decoder: Decoder) -> None:
    """So a text that parts anywhere from a long one loses a bounded number of tokens."""
    if "kda" not in decoder.config.layers:
        pytest.skip("keys and values are there at every border")
    scheduler = small.scheduler_of(decoder, blocks=30, snapshots=8)
    text = [11 * n % 90 for n in range(630)]
    small.run(scheduler, small.generation_of(0, text, 1))
    parted = small.generation_of(2, [*text[:550], 1, 2, 3], 4)
    small.run(scheduler, parted)
    assert parted.cached == 512
    assert parted.ids == small.alone(decoder, parted)


def test_answers_pushed_out_go_on_from_their_last_snapshot(small: ModuleType, decoder: Decoder) -> None:
    """Two answers that do not fit together: what the later one had read is mostly found again."""
    scheduler = small.scheduler_of(decoder, blocks=8, max_running=2, snapshots=4)
    rows = []
    step, decode = scheduler._model.step, scheduler._model.decode

    def counted(ids, *rest):
        rows.append(len(ids))
        return step(ids, *rest)

    def counted_all(ids, *rest):
        drawn = decode(ids, *rest)
        rows.extend(map(len, drawn))
        return drawn

    scheduler._model.step, scheduler._model.decode = counted, counted_all  # type: ignore[method-assign]
    pair = [small.generation_of(n, [(n + 3) * k % 90 for k in range(200 - 60 * n)], 160) for n in range(2)]
    small.run(scheduler, *pair)
    assert [g.ids for g in pair] == [small.alone(decoder, g) for g in pair]
    needed = sum(len(g.request.prompt_ids) + 160 - 1 for g in pair)
    assert needed < sum(rows) <= needed + 3 * BLOCK


def test_new_weights_forget_what_running_answers_read(small: ModuleType, decoder: Decoder) -> None:
    """An answer under way keeps what it read with the old weights; nobody else may find its blocks or states."""
    scheduler = small.scheduler_of(decoder, blocks=30)
    text = [13 * n % 90 for n in range(200)]
    first = small.generation_of(0, text, 100)
    scheduler.add(first)
    for _ in range(5):
        scheduler.step()
    scheduler.forget_past()
    again = small.generation_of(2, text, 3)
    small.run(scheduler, again)
    assert again.cached == 0
    longer = small.generation_of(4, [*text, *first.ids, 1, 2], 3)
    small.run(scheduler, longer)
    assert longer.cached == 192


def test_saves_are_the_states_behind_their_rows(small: ModuleType, decoder: Decoder) -> None:
    if "kda" not in decoder.config.layers:
        pytest.skip("nothing to save")
    model = NativeDecoder(decoder, kind="int8", blocks=2, threads=2, slots=2, spares=2)
    tokens, table = [n * n % 90 for n in range(40)], model.pool.take(1)
    expected = model.step(tokens, range(40), [0] * 40, [table], [39])
    model.step(tokens[:30], range(30), [0] * 30, [table], [], [1], {9: model.spares[0], 29: model.spares[1]})
    for kept, at in zip(model.spares, (10, 30), strict=True):
        model.copy_states(kept, 0)
        rest = range(at, 40)
        found = model.step([tokens[n] for n in rest], rest, [0] * len(rest), [table], [len(rest) - 1])
        assert torch.equal(found, expected)


def test_snapshots_are_few_and_the_oldest_goes_first() -> None:
    copies: list[tuple[int, int]] = []
    pool = SnapshotPool([5, 6], lambda source, target: copies.append((source, target)))
    names = [bytes([n]) for n in range(3)]
    for name in names[:2]:
        place = pool.reserve()
        assert place is not None
        pool.commit(place, name)
    assert pool.longest(names) == 2
    pool.restore(names[0], 1)
    assert copies in ([(5, 1)], [(6, 1)])
    places = [pool.reserve(), pool.reserve()]
    assert set(places) == {5, 6}
    assert pool.reserve() is None
    for place, name in zip(places, (names[0], names[0]), strict=True):  # two at once reached the same border
        assert place is not None
        pool.commit(place, name)
    pool.check()
    assert pool.longest(names) == 1
    pool.drop(names[0])
    assert pool.longest(names) == 0
    assert SnapshotPool([], lambda *_: None).reserve() is None


def test_logits_that_are_no_numbers_end_their_request_alone(
    small: ModuleType, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = small.scheduler_of(decoder, blocks=12)
    step = scheduler._model.step

    def spoilt(ids, positions, sequences, tables, wanted, *rest):
        logits = step(ids, positions, sequences, tables, wanted, *rest)
        logits[: int(len(wanted) > 1), 3] = float("nan")
        return logits

    monkeypatch.setattr(scheduler._model, "step", spoilt)
    errors: list[Exception] = []
    first, second = small.generation_of(0, [1, 2, 3], 6), small.generation_of(2, [4, 5], 6)
    first.failed = second.failed = errors.append
    for generation in (first, second):
        scheduler.add(generation)
    while scheduler.has_work():
        scheduler.step()
        scheduler.check()
    assert ["not finite" in str(error) for error in errors] == [True]
    assert len(second.ids) == 6
    assert scheduler._model.pool.free == 12


def test_blocks_are_lent_found_again_and_run_out() -> None:
    pool = BlockPool(4)
    tokens = list(range(3 * BLOCK))
    names = list(block_names(tokens, "a"))
    assert names != list(block_names(tokens, "b"))
    of_adapter = list(block_names(tokens, "a", adapter=b"1" * 32))
    assert not {*names} & {*of_adapter}
    assert of_adapter != list(block_names(tokens, "a", adapter=b"2" * 32))
    assert names[2:] == list(block_names(tokens[2 * BLOCK :], "a", after=names[1]))
    held = pool.take(3)
    for block, name in zip(held, names, strict=True):
        pool.remember(block, name)
    with pytest.raises(CapacityError, match="1 free"):
        pool.take(2)
    pool.give_back(held)
    assert pool.free == 4
    again = pool.find(names[:2])
    assert again == held[:2]
    pool.check([again])
    assert len(pool.take(2)) == 2  # the third one's past is gone
    assert pool.find(names) == held[:2]
    pool.forget_all()
    assert pool.find(names) == []
