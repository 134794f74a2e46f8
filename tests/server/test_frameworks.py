"""LangChain's and LlamaIndex's OpenAI classes, unchanged, against this server. Skipped where they are not installed."""

from __future__ import annotations

import importlib
import json
from typing import Any

import pytest

GREETING = "안녕하세요, 한옥이에요. 🏡"
pytestmark = pytest.mark.filterwarnings("ignore")


def installed(name: str) -> Any:
    pytest.importorskip(name.partition(".")[0], reason=f"{name} is not installed")
    return importlib.import_module(name)


def lang(server: Any, **options: Any) -> Any:
    given = {
        "model": server.model,
        "base_url": f"{server.url}/v1",
        "api_key": "none",
        "temperature": 0,
        "max_retries": 0,
    }
    return installed("langchain_openai").ChatOpenAI(**{**given, **options})


def hours(place: str) -> str:
    """Opening hours of a place."""
    return place


@pytest.mark.parametrize("responses", [False, True])
def test_langchain_chats_and_streams(taught: Any, responses: bool) -> None:
    chat = lang(taught, use_responses_api=responses)
    assert str(chat.invoke("hi").text) == GREETING
    assert "".join(str(chunk.text) for chunk in chat.stream("hi")) == GREETING
    assert chat.invoke("hi").usage_metadata["input_tokens"] > 0


def test_langchain_calls_tools(taught: Any, errand_tools: Any) -> None:
    messages = installed("langchain_core.messages")
    chat = lang(taught).bind_tools(errand_tools)
    asked = messages.HumanMessage("open?")
    said = chat.invoke([asked])
    (call,) = said.tool_calls
    assert (call["name"], call["args"]) == ("hours", {"place": "찻집"})
    whole = None
    for chunk in chat.stream([asked]):
        whole = chunk if whole is None else whole + chunk
    assert whole is not None
    assert [(one["name"], one["args"]) for one in whole.tool_calls] == [("hours", {"place": "찻집"})]
    result = messages.ToolMessage("9-17", tool_call_id=call["id"])
    assert chat.invoke([asked, said, result]).text == "It opens at 9."


def test_langchain_keeps_to_a_schema(server: Any) -> None:
    schema = {
        "title": "place", "type": "object", "properties": {"hour": {"type": "integer", "minimum": 0, "maximum": 23}},
        "required": ["hour"], "additionalProperties": False,
    }  # fmt: skip
    found = lang(server, max_tokens=300).with_structured_output(schema, method="json_schema").invoke("when?")
    assert 0 <= found["hour"] <= 23


def test_langchain_embeds(server: Any) -> None:
    openai = installed("langchain_openai")
    embedder = openai.OpenAIEmbeddings(
        model=server.model, base_url=f"{server.url}/v1", api_key="none", check_embedding_ctx_length=False
    )
    vectors = embedder.embed_documents(["tea", "house"])
    assert [len(vector) for vector in vectors] == [32, 32]


def test_llamaindex_completes_chats_and_calls(taught: Any, server: Any) -> None:
    like = installed("llama_index.llms.openai_like")
    types = installed("llama_index.core.llms")
    options = {
        "api_key": "none",
        "temperature": 0,
        "max_retries": 0,
        "is_chat_model": True,
        "is_function_calling_model": True,
    }
    llm = like.OpenAILike(model=taught.model, api_base=f"{taught.url}/v1", context_window=2048, **options)
    message = types.ChatMessage(role="user", content="hi")
    assert llm.chat([message]).message.content == GREETING
    assert "".join(part.delta or "" for part in llm.stream_chat([message])) == GREETING
    tool = installed("llama_index.core.tools").FunctionTool.from_defaults(hours)
    asked = llm.chat_with_tools([tool], user_msg="x", tool_required=True, max_tokens=400)
    (call,) = llm.get_tool_calls_from_response(asked)
    assert call.tool_name == "hours"
    assert json.dumps(call.tool_kwargs)
    plain = like.OpenAILike(
        model=server.model, api_base=f"{server.url}/v1", **{**options, "is_chat_model": False}, max_tokens=5
    )
    assert plain.complete("hello").text


def test_llamaindex_embeds(server: Any) -> None:
    embeddings = installed("llama_index.embeddings.openai")
    embedder = embeddings.OpenAIEmbedding(
        model_name=server.model, api_base=f"{server.url}/v1", api_key="none", max_retries=0
    )
    assert len(embedder.get_text_embedding("tea")) == 32
