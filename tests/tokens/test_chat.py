"""Conversations: parity with transformers, the loss mask, tools, and no way in for injected control tokens."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanok.errors import ConfigError, InputError
from hanok.tokens import Tokenizer
from hanok.tokens.control import CONTROL_TOKENS
from hanok.tokens.template import ChatTemplate
from hanok.tokens.tokenizer import Conversation

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "calculate",
            "description": "a < b, 계산",
            "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}},
        },
    }
]


def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    written = json.dumps(arguments, ensure_ascii=False)
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": written}}


TOOL_CHAT = [
    {"role": "system", "content": "You know the village."},
    {"role": "user", "content": "차 두 잔은 얼마예요?"},
    {"role": "assistant", "content": None, "tool_calls": [call("calculate", {"expression": "2*3500"})]},
    {"role": "tool", "tool_call_id": "call_1", "content": "7000"},
    {"role": "tool", "tool_call_id": "call_2", "content": "<열림>"},
    {"role": "assistant", "content": "7,000원입니다.", "reasoning_content": "두 잔"},
    {"role": "user", "content": "고마워요"},
]

pieces = st.text(max_size=8) | st.sampled_from(
    [*CONTROL_TOKENS, "한옥", "<", "|", ">", "im_end|>", "<|im_", "\n"]
)
contents = st.lists(pieces, max_size=6).map("".join)
chats = st.lists(
    st.one_of(
        contents.map(lambda c: {"role": "user", "content": c}),
        contents.map(lambda c: {"role": "assistant", "content": c}),
        contents.map(lambda c: {"role": "system", "content": c}),
        contents.map(lambda c: {"role": "tool", "content": c}),
        contents.map(lambda c: {"role": "assistant", "content": "", "tool_calls": [call("f", {"x": c})]}),
    ),
    min_size=1,
    max_size=5,
)


@given(chats)
def test_content_adds_no_control_token(tokenizer: Tokenizer, messages: list[dict]) -> None:
    control = set(tokenizer.special.values())
    tame = json.loads(json.dumps(messages).replace("<", "("))
    kept = [n for n in tokenizer.encode_chat(messages).ids if n in control]
    assert kept == [n for n in tokenizer.encode_chat(tame).ids if n in control]


@given(chats)
def test_the_rendered_text_is_what_is_encoded(tokenizer: Tokenizer, messages: list[dict]) -> None:
    ids = tokenizer.encode_chat(messages).ids
    assert tokenizer.decode(ids, skip_special=False) == tokenizer.render_chat(messages)


@given(chats)
def test_a_prompt_is_a_conversation_up_to_where_the_assistant_speaks(
    tokenizer: Tokenizer, messages: list[dict]
) -> None:
    chat = tokenizer.encode_chat(messages, add_generation_prompt=True)
    assert tokenizer.encode_prompt(messages) == chat.ids
    again = [*messages, {"role": "user", "content": "assistant\n"}]  # as the template writes between turns
    assert tokenizer.encode_prompt(again) == tokenizer.encode_chat(again, add_generation_prompt=True).ids


@given(chats)
def test_ids_equal_transformers(
    tokenizer: Tokenizer, transformers_tokenizer: Any, messages: list[dict]
) -> None:
    harmless = json.loads(json.dumps(messages).replace("<", "("))
    ours = tokenizer.encode_chat(harmless, add_generation_prompt=True)
    theirs = transformers_tokenizer.apply_chat_template(
        harmless, add_generation_prompt=True, return_dict=True
    )
    assert ours.ids == theirs["input_ids"]


def test_tools_equal_transformers(tokenizer: Tokenizer, transformers_tokenizer: Any) -> None:
    ours = tokenizer.encode_chat(TOOL_CHAT, tools=TOOLS)
    theirs = transformers_tokenizer.apply_chat_template(
        TOOL_CHAT, tools=TOOLS, return_dict=True, return_assistant_tokens_mask=True
    )
    assert ours.ids == theirs["input_ids"]
    assert [int(learnt) for learnt in ours.loss_mask] == theirs["assistant_masks"]


def test_layout(tokenizer: Tokenizer) -> None:
    assert tokenizer.render_chat(TOOL_CHAT[:1] + TOOL_CHAT[1:5], add_generation_prompt=True) == (
        "<|im_start|>system\nYou know the village.<|im_end|>\n"
        "<|im_start|>user\n차 두 잔은 얼마예요?<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "calculate", "arguments": {"expression": "2*3500"}}\n'
        "</tool_call><|im_end|>\n"
        "<|im_start|>user\n<tool_response>\n7000\n</tool_response>\n<tool_response>\n<열림>\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@given(chats)
def test_the_mask_covers_what_the_assistant_says(tokenizer: Tokenizer, messages: list[dict]) -> None:
    ids, mask = tokenizer.encode_chat(messages)
    assert len(ids) == len(mask)
    turns: list[list[int]] = []
    before = False
    for token, learnt in zip(ids, mask, strict=True):
        if learnt and not before:
            turns.append([])
        if learnt:
            turns[-1].append(token)
        before = learnt
    assistants = [m for m in messages if m["role"] == "assistant"]
    assert len(turns) == len(assistants)
    for turn, message in zip(turns, assistants, strict=True):
        assert turn[-1] == tokenizer.special["<|im_end|>"]
        said = tokenizer.decode(turn[:-1], skip_special=False)
        if "tool_calls" not in message:  # a token may take the line break of the template along
            assert said.removeprefix("\n") == message["content"].removeprefix("\n")


def test_the_answer_follows_the_generation_prompt(tokenizer: Tokenizer) -> None:
    """What is learnt comes right after what the engine is given."""
    prompt = tokenizer.encode_chat(TOOL_CHAT[:2], add_generation_prompt=True).ids
    ids, mask = tokenizer.encode_chat(TOOL_CHAT[:3])
    assert ids[: len(prompt)] == prompt
    assert not any(mask[: len(prompt)])
    assert mask[len(prompt)]
    assert not mask[-1]


def test_batches_equal_single_calls(tokenizer: Tokenizer) -> None:
    chats = [Conversation(TOOL_CHAT, TOOLS), Conversation(TOOL_CHAT[1:2]), Conversation(TOOL_CHAT)]
    assert tokenizer.encode_chats(chats) == [tokenizer.encode_chat(c.messages, tools=c.tools) for c in chats]


def test_private_characters_in_content_survive(tokenizer: Tokenizer) -> None:
    content = "".join(map(chr, range(0xFDD0, 0xFDF0))) + "<"
    assert content in tokenizer.render_chat([{"role": "user", "content": content}])


def test_tool_descriptions_cannot_inject(tokenizer: Tokenizer) -> None:
    tools = [{"name": "<|im_end|>", "<|im_start|>": "<tool_call>"}]
    ids = tokenizer.encode_chat([{"role": "user", "content": "x"}], tools=tools).ids
    control = [n for n in ids if n in tokenizer.special.values()]
    assert control == [2, 3, 2, 3]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "at least one"),
        ("hello", "list"),
        ([["user", "x"]], "no object"),
        ([{"role": "boss", "content": "x"}], "boss"),
        ([{"role": "user", "content": None}], "NoneType"),
        ([{"role": "user", "content": [{"type": "text"}]}], "content is list"),
        ([{"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}], "function name"),
        ([{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}], "arguments of f"),
    ],
)
def test_bad_messages_are_refused(tokenizer: Tokenizer, messages: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tokenizer.encode_chat(messages)


def test_templates_run_in_a_sandbox() -> None:
    messages = [{"role": "user", "content": "x"}]
    for source in ("{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ raise_exception('no') }}"):
        with pytest.raises(InputError, match="refuses"):
            ChatTemplate(source, ["<a>"]).render(messages)
    with pytest.raises(ConfigError, match="compile"):
        ChatTemplate("{% if %}", ["<a>"])


@pytest.mark.parametrize(
    "source",
    ["{% for _ in range(99999) %}{% for _ in range(99999) %}{% endfor %}{% endfor %}",
     "{% for _ in messages %}{% set _turn_of_a_loop = 1 %}{% for _ in messages %}{% endfor %}{% endfor %}",
     "{{ messages is _turn_of_a_loop }}"],
)  # fmt: skip
def test_turns_of_loops_are_counted_whatever_a_template_does(source: str) -> None:
    with pytest.raises(InputError, match="refuses"):
        ChatTemplate(source, ["<a>"]).render([{"role": "user", "content": "x"}])


def test_calls_come_back(tokenizer: Tokenizer) -> None:
    ids, mask = tokenizer.encode_chat(TOOL_CHAT[:3])
    said = [n for n, learnt in zip(ids, mask, strict=True) if learnt]
    for form in (said, tokenizer.decode(said, skip_special=False)):
        content, calls = tokenizer.parse_assistant(form)
        assert content == ""
        assert calls[0]["function"] == {"name": "calculate", "arguments": '{"expression": "2*3500"}'}
        assert calls[0]["type"] == "function"


def test_a_call_written_as_plain_text_is_no_call(tokenizer: Tokenizer) -> None:
    text = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    assert tokenizer.parse_assistant(tokenizer.encode(text)) == (text, [])
    assert tokenizer.parse_assistant(text)[1][0]["function"]["name"] == "f"


@pytest.mark.parametrize(
    ("said", "content", "names"),
    [
        ("네.<|im_end|>rest", "네.", []),
        ("<think>\nhm\n</think>\n\n네.", "네.", []),
        ("<think>\nnever ends", "", []),
        (
            '잠시만요.\n<tool_call>{"name": "f"}</tool_call>\n<tool_call>{"name": "g"}</tool_call>',
            "잠시만요.",
            ["f", "g"],
        ),
        ("<tool_call>oops</tool_call>", "<tool_call>oops</tool_call>", []),
        ("<tool_call>[1]</tool_call>.", "<tool_call>[1]</tool_call>.", []),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}}', "", ["f"]),
        ('<tool_call>{"name": "f', '<tool_call>{"name": "f', []),
    ],
)
def test_parsing(tokenizer: Tokenizer, said: str, content: str, names: list[str]) -> None:
    found, calls = tokenizer.parse_assistant(said)
    assert found == content
    assert [c["function"]["name"] for c in calls] == names
    assert len({c["id"] for c in calls}) == len(calls)


def test_a_number_too_large_for_a_float_stays_json(tokenizer: Tokenizer) -> None:
    for arguments in ('{"x": 1e999, "y": [2]}', '{ "arguments": -1E400 }'):
        said = f'<tool_call>\n{{"arguments" : 3, "name": "f",  "arguments": {arguments} }}\n</tool_call>'
        ((call,),) = tokenizer.parse_assistant(said)[1:]
        assert call["function"]["arguments"] == arguments
