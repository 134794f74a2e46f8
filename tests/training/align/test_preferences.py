"""Preferences as they are read: which tokens count, and what is refused, left out or counted."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanok.errors import InputError
from hanok.tokens.tokenizer import Tokenizer
from hanok.training.align.preferences import read_judged, read_pairs
from hanok.training.rollouts.prompts import read_prompts

Write = Callable[[Path, list[Any]], Path]


@pytest.fixture(scope="module")
def tokenizer(base: Path) -> Tokenizer:
    return Tokenizer.load(base)


def test_the_answer_counts_and_nothing_else(
    preferences: Path, preference_rows: list[Any], tokenizer: Tokenizer
) -> None:
    pairs = read_pairs(preferences, tokenizer, max_seq_len=100)
    assert len(pairs) == len(preference_rows)
    row, pair = preference_rows[3], pairs[3]
    for side, answer in ((pair.chosen, row["chosen"]), (pair.rejected, row["rejected"])):
        chat = tokenizer.encode_chat([*row["prompt"], *answer])
        learnt = [i for i, mask in zip(chat.ids, chat.loss_mask, strict=True) if mask]
        assert side.targets[side.mask].tolist() == learnt
        assert tokenizer.decode(learnt) == answer[0]["content"]
        assert learnt[-1] == tokenizer.stop_ids[0]
        assert side.ids[0] == tokenizer.bos_id
        assert side.ids[1:].tolist() == side.targets[:-1].tolist()


def test_earlier_turns_of_the_assistant_do_not_count(
    tmp_path: Path, write_rows: Write, tokenizer: Tokenizer
) -> None:
    prompt = [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "bbbb"}, {"role": "user", "content": "c"},
    ]  # fmt: skip
    file = write_rows(tmp_path / "a.jsonl", [{"prompt": prompt, "chosen": "dd", "rejected": "e"}])
    (pair,) = read_pairs(file, tokenizer, max_seq_len=100)
    assert tokenizer.decode(pair.chosen.targets[pair.chosen.mask].tolist()) == "dd"


def test_without_a_prompt_it_is_what_both_begin_with(
    tmp_path: Path, write_rows: Write, tokenizer: Tokenizer
) -> None:
    question = {"role": "user", "content": "who"}
    rows = [
        {
            side: [question, {"role": "assistant", "content": said}]
            for side, said in (("chosen", "me"), ("rejected", "it"))
        }
    ]
    (pair,) = read_pairs(write_rows(tmp_path / "a.jsonl", rows), tokenizer, max_seq_len=100)
    explicit = [{"prompt": "who", "chosen": "me", "rejected": "it"}]
    (same,) = read_pairs(write_rows(tmp_path / "b.jsonl", explicit), tokenizer, max_seq_len=100)
    assert pair.chosen.ids.tolist() == same.chosen.ids.tolist()
    assert pair.rejected.mask.tolist() == same.rejected.mask.tolist()


def test_rows_that_teach_nothing_are_counted(
    tmp_path: Path, write_rows: Write, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        {"prompt": "a", "chosen": "same", "rejected": "same"},
        {"prompt": "a", "chosen": "good", "rejected": " "},
        {"prompt": "a", "chosen": "good", "rejected": "b" * 200},
        {"prompt": "a", "chosen": "good", "rejected": "bad"},
    ]
    with caplog.at_level(logging.WARNING, logger="hanok"):
        pairs = read_pairs(write_rows(tmp_path / "a.jsonl", rows), tokenizer, max_seq_len=64)
    assert len(pairs) == 1
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == [
        "an empty answer", "equal sides", "longer than max_seq_len = 64",
    ]  # fmt: skip
    assert all("1 left out" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "chosen": "b"}, 'line 2: no "rejected"'),
        ({"prompt": 3, "chosen": "b", "rejected": "c"}, 'line 2: "prompt" is neither text nor a list'),
        ({"prompt": [], "chosen": "b", "rejected": "c"}, 'line 2: "prompt" is neither text nor a list'),
        ({"chosen": "b", "rejected": "c"}, "line 2: no prompt"),
        ([1], "line 2: expected an object"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "tools": "d"}, 'line 2: "tools" is no list'),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": "much"}, "line 2: margin = 'much'"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": -1}, "line 2: margin = -1"),
    ],
)
def test_rows_that_are_not_well_formed_are_errors(
    row: Any, message: str, tmp_path: Path, write_rows: Write, tokenizer: Tokenizer
) -> None:
    file = write_rows(tmp_path / "a.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}, row])
    with pytest.raises(InputError, match=message):
        read_pairs(file, tokenizer, max_seq_len=64)


def test_a_line_ends_where_json_says(tmp_path: Path, write_rows: Write, tokenizer: Tokenizer) -> None:
    """U+2028 and its kin may stand in a JSON text as they are."""
    row = {"prompt": "a\u2028b\x85c", "chosen": "b", "rejected": "c"}
    assert len(read_pairs(write_rows(tmp_path / "a.jsonl", [row, row]), tokenizer, max_seq_len=64)) == 2


def test_prompts_that_the_template_cannot_take_name_their_line(tmp_path: Path, tokenizer: Tokenizer) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"prompt": "a"}\n{"prompt": "\\ud800"}\n')
    with pytest.raises(InputError, match=r"line 2: .*Unicode"):
        read_prompts(file, tokenizer, max_tokens=64)


def test_verdicts_and_pairs_become_judged_answers(
    tmp_path: Path, write_rows: Write, tokenizer: Tokenizer
) -> None:
    rows = [
        {"prompt": "a", "completion": "b", "label": True},
        {"prompt": "c", "chosen": "d", "rejected": "e"},
        {"prompt": "f", "completion": "g", "label": False},
    ]
    found = read_judged(write_rows(tmp_path / "a.jsonl", rows), tokenizer, max_seq_len=64)
    assert [one.desirable for one in found] == [True, True, False, False]
    said = [tokenizer.decode(one.answer.targets[one.answer.mask].tolist()) for one in found]
    others = [tokenizer.decode(one.mismatched.targets[one.mismatched.mask].tolist()) for one in found]
    assert (said, others) == (
        ["b", "d", "e", "g"],
        ["d", "g", "g", "b"],
    )  # never an answer to the same prompt
    with pytest.raises(InputError, match="same label"):
        read_judged(write_rows(tmp_path / "b.jsonl", rows[:1]), tokenizer, max_seq_len=64)
