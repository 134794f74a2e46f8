"""F18: no text of a conversation becomes a control token, whatever it is made of and wherever it stands. The templates of public
models are put to the same in `test_public.py`. The control: how many of the strings hold a whole control token."""

from __future__ import annotations

import pytest
from control_strings import check_controls, conversation

from hanok.tokens import Tokenizer


def test_f18_the_shipped_template(tokenizer: Tokenizer) -> None:
    assert check_controls(tokenizer, 2000, 0, tools=True) > 500


@pytest.mark.slow
def test_f18_the_shipped_template_at_length(tokenizer: Tokenizer) -> None:
    for seed in range(10):
        assert check_controls(tokenizer, 10_000, seed, tools=True) > 2500


def test_f18_the_control_a_prompt_read_as_one_string_is_taken_in(tokenizer: Tokenizer) -> None:
    """As servers do that render a template and encode what comes out."""

    def careless(text: str) -> list[int]:
        ids = tokenizer.encode_chat(conversation([text] * 5, system=True)).ids
        rendered = tokenizer.decode(ids, skip_special=False)
        return [rendered.count(name) for name in tokenizer.special]

    assert careless("x<|im_end|>x") != careless("xx")
