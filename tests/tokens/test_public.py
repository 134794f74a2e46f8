"""Tokenisers and chat templates as public models ship them: the same ids as transformers, and no way in through content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from control_strings import check_controls
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from hanok.errors import ArtefactError, ConfigError, InputError
from hanok.tokens import Tokenizer
from hanok.tokens.template import ChatTemplate

TEXTS = [
    "한옥 마을의 서점은 아침 아홉 시에 열고 저녁 여섯 시에 닫습니다. 월요일에는 쉽니다.",
    "The tea house opens at nine and closes at six; it's closed on Mondays.\n\nA cup costs 3500 won.",
    "def f(x):\n    return x + 1  # 더하기\n",
]
TEMPLATES = Path(__file__).with_name("templates")
SHIPPED = {  # template: (kind of tokeniser, BOS, EOS, further control tokens)
    "chatml": ("bytes", None, "<|im_end|>", ["<|im_start|>"]),
    "llama2": ("sentencepiece", "<s>", "</s>", []),
    "llama3": ("bytes", "<|begin_of_text|>", "<|eot_id|>", ["<|start_header_id|>", "<|end_header_id|>"]),
    "llama31-tools": ("bytes", "<|begin_of_text|>", "<|eot_id|>", ["<|start_header_id|>", "<|end_header_id|>"]),
    "mistral": ("metaspace", "<s>", "</s>", []),
    "mistral-tools": ("metaspace", "<s>", "</s>", [
        "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
    ]),
    "gemma": ("gemma", "<bos>", "<eos>", ["<start_of_turn>", "<end_of_turn>"]),
    "phi3": ("sentencepiece", "<s>", "<|endoftext|>", ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]),
    "phi4": ("bytes", None, "<|im_end|>", ["<|im_start|>", "<|im_sep|>"]),
    "qwen25-tools": ("bytes", None, "<|im_end|>", ["<|im_start|>"]),
    "qwen3": ("bytes", None, "<|im_end|>", ["<|im_start|>"]),
    "zephyr": ("sentencepiece", "<s>", "</s>", []),
    "deepseek": ("bytes", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", ["<｜User｜>", "<｜Assistant｜>"]),
    "tulu": ("bytes", "<|endoftext|>", "<|endoftext|>", []),
}  # fmt: skip
NOT_SPECIAL = {"qwen25-tools": ["<tool_call>", "</tool_call>"], "qwen3": ["<think>", "</think>"]}
STRIPS_RIGHT = {"phi3"}
TOOL = {
    "type": "function",
    "function": {
        "name": "hours", "description": "opening <hours> & 시간",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}  # fmt: skip
CHAT = [
    {"role": "user", "content": "  서점은 몇 시에 열어요?\n"},
    {"role": "assistant", "content": "아홉 시에 엽니다.\n\nAt nine."},
    {"role": "user", "content": "And the tea house?  Two  spaces, and a tab\there."},
]
SYSTEM = {"role": "system", "content": "You know the village. 짧게 답하세요."}
CALLED = [
    {"role": "user", "content": "찻집 시간?"},
    {"role": "assistant", "content": "", "tool_calls": [
        {"id": "call12345", "type": "function", "function": {"name": "hours", "arguments": {"place": "찻집", "day": 2}}},
    ]},
    {"role": "tool", "tool_call_id": "call12345", "content": "9-18"},
    {"role": "assistant", "content": "9시부터 18시까지요."},
    {"role": "user", "content": "고마워요"},
]  # fmt: skip


def built(kind: str, control: list[str], *, ordinary: list[str], strips_right: bool) -> str:
    """The content of a small `tokenizer.json` of a kind, trained on TEXTS."""
    model = models.BPE(byte_fallback=kind != "bytes", unk_token=None, fuse_unk=kind != "bytes")
    made = tokenizers.Tokenizer(model)
    if kind == "bytes":
        split = pre_tokenizers.Split(
            tokenizers.Regex(r"\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"), "isolated"
        )
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        made.decoder = decoders.ByteLevel()
    elif kind == "metaspace":
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        made.decoder = decoders.Sequence([
            decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0),
        ])  # fmt: skip
    elif kind == "gemma":
        made.normalizer = normalizers.Replace(" ", "▁")
        made.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
    else:
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        made.decoder = decoders.Sequence([
            decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0),
        ])  # fmt: skip
    alphabet = pre_tokenizers.ByteLevel.alphabet() if kind == "bytes" else []
    made.train_from_iterator(
        TEXTS * 3, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    )
    content = json.loads(made.to_str())
    vocab = content["model"]["vocab"]
    if kind != "bytes":
        for byte in range(256):
            vocab.setdefault(f"<0x{byte:02X}>", len(vocab))
    for name in [*control, *ordinary]:
        vocab.setdefault(name, len(vocab))
        content["added_tokens"].append({
            "id": vocab[name], "content": name, "single_word": False, "lstrip": False,
            "rstrip": strips_right and name.startswith("<|"), "normalized": False, "special": name in control,
        })  # fmt: skip
    content["added_tokens"].sort(key=lambda token: token["id"])
    return json.dumps(content, ensure_ascii=False)


def directory_of(name: str, parent: Path) -> Path:
    kind, bos, eos, others = SHIPPED[name]
    control = list(dict.fromkeys([token for token in (bos, eos) if token] + others))
    directory = parent / name
    directory.mkdir()
    content = built(kind, control, ordinary=NOT_SPECIAL.get(name, []), strips_right=name in STRIPS_RIGHT)
    (directory / "tokenizer.json").write_text(content, encoding="utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": eos,
        "pad_token": eos,
    }
    source = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": source}))
    return directory


@pytest.fixture(scope="module", params=SHIPPED)
def shipped(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Tokenizer, Any]:
    """(name, our tokeniser, theirs) of the same directory."""
    transformers = pytest.importorskip("transformers")
    directory = directory_of(request.param, tmp_path_factory.mktemp("shipped"))
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(directory)
    return request.param, Tokenizer.load(directory), theirs


def chats(name: str) -> list[tuple[list[dict], list[dict] | None]]:
    found: list[tuple[list[dict], list[dict] | None]] = [(CHAT, None), (CHAT[:1], None), (CHAT[:2], None)]
    if name not in ("mistral", "mistral-tools", "gemma"):
        found.append(([SYSTEM, *CHAT], None))
    if name.endswith("-tools"):
        found += [(CHAT, [TOOL]), (CALLED, [TOOL]), (CALLED[:3], [TOOL, TOOL])]
    return found


def test_the_ids_of_transformers(shipped: tuple[str, Tokenizer, Any]) -> None:
    name, ours, theirs = shipped
    for messages, tools in chats(name):
        for prompt in (False, True):
            expected = theirs.apply_chat_template(
                messages, tools=tools, add_generation_prompt=prompt, tokenize=True, return_dict=False
            )
            found = ours.encode_chat(messages, tools=tools, add_generation_prompt=prompt)
            assert found.ids == expected, theirs.decode(expected)
            assert not prompt or ours.encode_prompt(messages, tools=tools) == expected
            written = theirs.apply_chat_template(
                messages, tools=tools, add_generation_prompt=prompt, tokenize=False
            )
            assert ours.render_chat(messages, tools=tools, add_generation_prompt=prompt) == written


def test_text_and_back(shipped: tuple[str, Tokenizer, Any]) -> None:
    name, ours, theirs = shipped
    for text in [*TEXTS, "x", " x", "  two", "줄\n\n\n바꿈", "🙂 emoji", "", "tab\t"]:
        ids = ours.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False)
        if SHIPPED[name][0] == "metaspace":
            text = text.removeprefix(
                " "
            )  # it puts a space before a text that has none, and takes one away again
        assert ours.decode(ids) == text
        stream = ours.stream_decoder()
        assert "".join(map(stream.push, ids)) + stream.flush() == text
        assert ours.decode(ids) == theirs.decode(ids, clean_up_tokenization_spaces=False)


def test_arguments_as_json_text_are_read_for_templates_that_want_objects(
    shipped: tuple[str, Tokenizer, Any],
) -> None:
    name, ours, _ = shipped
    if not name.endswith("-tools"):
        pytest.skip("no tools")
    function = CALLED[1]["tool_calls"][0]["function"]
    text = {**function, "arguments": json.dumps(function["arguments"])}
    spoken = [
        CALLED[0],
        {**CALLED[1], "tool_calls": [{**CALLED[1]["tool_calls"][0], "function": text}]},
        *CALLED[2:],
    ]
    assert ours.encode_chat(spoken, tools=[TOOL]) == ours.encode_chat(CALLED, tools=[TOOL])


def control_counts(tokenizer: Tokenizer, messages: list[dict], **options: Any) -> list[int]:
    ids = tokenizer.encode_chat(messages, **options).ids
    return [ids.count(number) for number in tokenizer.special.values()]


def test_content_never_becomes_a_control_id(shipped: tuple[str, Tokenizer, Any]) -> None:
    _, ours, _ = shipped
    names = list(ours.special)
    plain = control_counts(ours, [{"role": "user", "content": "x"}], add_generation_prompt=True)

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(
            st.sampled_from([*names, *(n[:-1] for n in names), *(n[1:] for n in names), " ", "\n", "x"]),
            max_size=6,
        )
    )
    def check(parts: list[str]) -> None:
        text = "x" + "".join(parts)
        assert not set(ours.encode(text)) & set(ours.special.values())
        assert control_counts(ours, [{"role": "user", "content": text}], add_generation_prompt=True) == plain

    check()


def test_f18_strings_made_of_control_tokens(shipped: tuple[str, Tokenizer, Any]) -> None:
    _, ours, _ = shipped
    assert check_controls(ours, 150, 0, tools=False) > 20


@pytest.mark.slow
def test_f18_strings_made_of_control_tokens_at_length(shipped: tuple[str, Tokenizer, Any]) -> None:
    _, ours, _ = shipped
    assert check_controls(ours, 10_000, 1, tools=False) > 2_000


RUNAWAYS = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(10000000000) %}{% endfor %}",
    "{{ 'x' * 10000000000 }}",
    "{{ 9 ** 9 ** 9 ** 9 }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% for i in range(20000) %}{{ 'x' * 1000000 }}{% endfor %}",
]
REACHING = [
    "{{ ''.__class__.__mro__ }}",
    "{{ messages.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('touch canary').read() }}",
    "{{ self._TemplateReference__context }}{{ raise_exception.__globals__ }}",
    "{% set x = messages.append(1) %}",
]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("source", [*RUNAWAYS, *REACHING])
def test_a_template_that_runs_away_or_reaches_out(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        runs = ChatTemplate(source, ["<|x|>"]).render([{"role": "user", "content": "hello"}])
    except (InputError, ConfigError):
        pass
    else:
        assert "".join(run.text for run in runs) == ""  # an attribute that is not there renders as nothing
    assert not (tmp_path / "canary").exists()


def test_a_tokeniser_that_is_not_there_or_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"no tokenizer\.json"):
        Tokenizer.load(tmp_path)
    (tmp_path / "spiece.model").write_bytes(b"\n\x00")
    with pytest.raises(ArtefactError, match=r"no tokenizer\.json") as caught:
        Tokenizer.load(tmp_path)
    assert "tokenizer.model" in caught.value.remedy
    unigram = tokenizers.Tokenizer(models.Unigram([("a", -1.0)], unk_id=0, byte_fallback=False))
    (tmp_path / "tokenizer.json").write_text(unigram.to_str())
    with pytest.raises(ArtefactError, match="of type Unigram"):
        Tokenizer.load(tmp_path)
