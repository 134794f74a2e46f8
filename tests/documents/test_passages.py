"""Passages: exact offsets, nothing lost, never too wide."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanok.documents.passages import _width, cut

PROSE = st.lists(
    st.sampled_from(
        ["휴가는 15일이다. ", "It opens at nine! ", "\n\n", "\n", "# 머리말\n", "## Part\n", "가" * 500, "x" * 900, "```\n", " "]
    ),
    max_size=60,
).map("".join)  # fmt: skip


@given(st.one_of(PROSE, st.text(max_size=400)), st.sampled_from([(800, 160), (60, 20), (10, 0)]))
def test_every_character_lies_in_a_passage(text: str, sizes: tuple[int, int]) -> None:
    widest, overlap = sizes
    found = cut(text, widest=widest, overlap=overlap)
    inside = set[int]()
    for passage in found:
        assert 0 <= passage.start < passage.end <= len(text)
        assert _width(text[passage.start : passage.end]) <= widest
        assert not text[passage.start].isspace()
        inside |= set(range(passage.start, passage.end))
    assert [p.start for p in found] == sorted({p.start for p in found})  # each begins behind the one before
    outside = {place for place, character in enumerate(text) if not character.isspace()} - inside
    lines = text.splitlines(keepends=True)
    starts = [sum(map(len, lines[:n])) for n in range(len(lines))]
    for place in outside:  # headings alone
        line = max(n for n, start in enumerate(starts) if start <= place)
        assert lines[line].startswith("#"), (place, lines[line])


def test_headings_are_carried() -> None:
    text = "# 안내\n앞말이다.\n\n## 휴가\n15일이다.\n\n# 끝\n맺음말이다.\n"
    assert [(text[p.start : p.end], p.heading) for p in cut(text)] == [
        ("앞말이다.", "안내"), ("15일이다.", "안내 > 휴가"), ("맺음말이다.", "끝"),
    ]  # fmt: skip


def test_a_comment_in_fenced_code_is_no_heading() -> None:
    text = "# Use\n```\n# not a heading\nrun()\n```\n"
    assert [p.heading for p in cut(text)] == ["Use"]


def test_headings_alone_are_text() -> None:
    assert [text for p in cut("# One\n# Two") for text in ["# One\n# Two"[p.start : p.end]]] == [
        "# One\n# Two"
    ]


def test_sentences_overlap_but_not_across_headings() -> None:
    sentence = "문장 하나가 여기에서 이렇게 이어진다. "
    text = sentence * 40 + "\n# 다음\n" + sentence * 3
    first, second, *_, last = cut(text)
    assert second.start < first.end
    assert last.heading == "다음"
    assert last.start > text.index("#")


@pytest.mark.parametrize("text", ["", " \n\n ", "\t"])
def test_nothing_gives_nothing(text: str) -> None:
    assert cut(text) == []
