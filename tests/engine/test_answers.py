"""What a reader sees while an answer comes: whole characters, and never what a stop string may still take back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hanok.engine.generator import LocalEngine
from hanok.engine.text import AnswerStream

texts = st.text() | st.lists(
    st.sampled_from(["한옥", "뷁", "끝", " ", "😀", "👩‍👩‍👧", "🇰🇷", "a", "\n", "漢"])
).map("".join)


@given(text=texts, stop=st.sampled_from([(), ("끝",), ("😀a", "한옥한")]))
def test_no_half_characters_and_nothing_taken_back(
    engine: LocalEngine, text: str, stop: tuple[str, ...]
) -> None:
    """Every token of this tokeniser is a byte, so each character of more than one comes in pieces."""
    ids = engine.tokenizer.encode(text)
    assert len(ids) == len(text.encode())
    cut = min((text.index(one) for one in stop if one in text), default=len(text))
    expected = text[:cut].lstrip("\n")
    answer, said = AnswerStream(engine.tokenizer, stop=stop), ""
    for token in ids:
        said += answer.push([token])
        assert expected.startswith(said)
    said += answer.finish()[0]
    assert said == answer.content
    assert said == expected or not expected  # a text of line ends alone stays what it is
