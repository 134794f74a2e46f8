"""What a body says to the chat template beside the conversation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tiny

from hanok.artefacts import create_artefact
from hanok.errors import InputError
from hanok.tokens.template import ChatTemplate

ASKED = [{"role": "user", "content": "hi"}]
THINKS_NOT = (
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% if reasoning_effort is defined %}effort {{ reasoning_effort }}{% endif %}"
)


@pytest.fixture(scope="module")
def told(serve_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server of a model whose template can be told not to think."""
    folder = tmp_path_factory.mktemp("told") / "run" / "model"
    folder.parent.mkdir()
    with create_artefact(folder, kind="model") as draft:
        tiny.save_tiny_model(draft.path)
        file: Path = draft.path / "tokenizer_config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        config["chat_template"] += THINKS_NOT
        file.write_text(json.dumps(config), encoding="utf-8")
    with serve_model(folder) as running:
        yield running


def prompt(running: Any, **more: Any) -> str:
    body = {"model": running.model, "messages": ASKED, **more}
    ids = running.http.post("/tokenize", json=body).json()["tokens"]
    return running.http.post("/detokenize", json={"model": running.model, "tokens": ids}).json()["prompt"]


def test_the_template_is_told(told: Any) -> None:
    plain = prompt(told)
    assert "</think>" not in plain
    quiet = prompt(told, chat_template_kwargs={"enable_thinking": False})
    assert quiet == plain + "<think>\n\n</think>\n\n"
    assert prompt(told, chat_template_kwargs={"enable_thinking": True}) == plain
    assert prompt(told, reasoning_effort="none") == quiet + "effort none"
    assert prompt(told, reasoning_effort="low") == plain + "effort low"
    both = prompt(told, reasoning_effort="low", chat_template_kwargs={"enable_thinking": False})
    assert both == quiet + "effort low"  # what is said by name counts


def test_every_route_that_talks_tells_it(told: Any) -> None:
    def chat(**more: Any) -> int:
        body = {"model": told.model, "messages": ASKED, "max_tokens": 1, **more}
        return told.http.post("/v1/chat/completions", json=body).json()["usage"]["prompt_tokens"]

    def response(**more: Any) -> int:
        body = {"model": told.model, "input": "hi", "max_output_tokens": 1, **more}
        return told.http.post("/v1/responses", json=body).json()["usage"]["input_tokens"]

    def message(path: str, **more: Any) -> int:
        body = {"model": told.model, "messages": ASKED, **more}
        answer = told.http.post(path, json=body).json()
        return answer.get("usage", answer)["input_tokens"]

    assert chat(chat_template_kwargs={"enable_thinking": False}) > chat()
    assert chat(reasoning_effort="none") > chat(reasoning_effort="low") > chat()
    assert response(reasoning={"effort": "none"}) == chat(reasoning_effort="none")
    assert response(reasoning={"summary": "auto"}) == response() == chat()
    off = {"thinking": {"type": "disabled"}}
    assert message("/v1/messages", max_tokens=1, **off) == chat(
        chat_template_kwargs={"enable_thinking": False}
    )
    assert message("/v1/messages/count_tokens", **off) == message("/v1/messages", max_tokens=1, **off)
    assert message("/v1/messages", max_tokens=1) == chat()


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"chat_template_kwargs": {"messages": "x"}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"a": "two words"}}, None),
        ({"chat_template_kwargs": {"a": ["x"]}}, None),
        ({"reasoning_effort": "much"}, "reasoning_effort"),
        ({"continue_final_message": True}, None),
        ({"include_stop_str_in_output": True}, None),
        ({"return_token_ids": True}, None),
        ({"prompt_logprobs": 1}, None),
    ],
)
def test_what_a_model_cannot_be_told_is_refused(server: Any, more: dict[str, Any], param: str | None) -> None:
    body = {"model": server.model, "messages": ASKED, "max_tokens": 1}
    answer = server.http.post("/v1/chat/completions", json={**body, **more})
    assert answer.status_code == 400
    assert param is None or answer.json()["error"]["param"] == param
    assert next(iter(more)) in answer.json()["error"]["message"]
    assert server.http.post("/v1/chat/completions", json=body).status_code == 200


def test_a_template_names_its_settings_and_takes_no_others() -> None:
    template = ChatTemplate(
        "{{ bos_token }}{% for message in messages %}{{ message.content }}{% endfor %}{% set own = 1 %}{{ own }}"
        "{% if tone %}{{ tone }}{% endif %}{{ strftime_now('%Y') and '' }}", ["<s>"], {"bos_token": "<s>"},
    )  # fmt: skip
    assert template.settings == {"tone"}
    runs = template.render(ASKED, settings={"tone": "<s>"})
    assert [run.text for run in runs if run.control] == ["<s>"]  # what a setting says is no control token
    assert "".join(run.text for run in runs) == "<s>hi1<s>"
    with pytest.raises(InputError, match="add_generation_prompt"):
        template.render(ASKED, settings={"add_generation_prompt": True})
