"""Anthropic's messages: read as a chat, answered as content blocks."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Tag, model_validator

from hanok.server.asking import Piece, Turn, approval, chat_request
from hanok.server.errors import anthropic_error, stream_error
from hanok.server.generation import BLOCKED
from hanok.server.sampling import Refusing
from hanok.server.schema import ChatRequest, by_type

Event = tuple[str, dict[str, Any]]


class TextBlock(BaseModel):
    type: Literal["text"]
    text: str


class CallBlock(BaseModel):
    type: Literal["tool_use"]
    id: Annotated[str, Field(max_length=200)]
    name: str
    input: dict[str, Any]


class ResultBlock(BaseModel):
    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[TextBlock] = ""
    is_error: bool | None = None


class ThinkingBlock(BaseModel):
    type: Literal["thinking"]
    thinking: str
    signature: str = ""


Block = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[CallBlock, Tag("tool_use")]
    | Annotated[ResultBlock, Tag("tool_result")]
    | Annotated[ThinkingBlock, Tag("thinking")],
    by_type(
        "unsupported_block", "a block is text, tool_use, tool_result or thinking; this server reads no images or documents"
    ),
]  # fmt: skip


class InputMessage(BaseModel):
    role: Literal["user", "assistant"]
    content: str | list[Block]


class AnthropicTool(BaseModel):
    type: Literal["custom"] | None = None
    name: str
    description: str | None = None
    input_schema: dict[str, Any]


class ToolChoice(BaseModel):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class Thinking(BaseModel):
    """A budget is taken, and not enforced: it is how much the model may think, and it thinks as it does."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]


class OutputFormat(BaseModel):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Refusing):
    format: OutputFormat | None = None

    @classmethod
    def refused(cls) -> dict[str, str]:
        return {"effort": "the model decides"}


class CountRequest(Refusing):
    """Body of POST /v1/messages/count_tokens."""

    model_config = ConfigDict(allow_inf_nan=False)

    model: str
    messages: Annotated[list[InputMessage], Field(min_length=1)]
    system: str | list[TextBlock] | None = None
    tools: Annotated[list[AnthropicTool], Field(max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None

    @classmethod
    def refused(cls) -> dict[str, str]:
        return {"mcp_servers": "call them yourself", "container": "there is none here"}

    @model_validator(mode="after")
    def _can_be_continued(self) -> CountRequest:
        """An answer that was begun is text, and is gone on with as text."""
        if not self.continues:
            return self
        content = self.messages[-1].content
        form = None if self.output_config is None else self.output_config.format
        problems = {
            "the last message is the assistant's, and only text can be continued": not isinstance(
                content, str
            )
            and any(not isinstance(block, TextBlock) for block in content),
            "final assistant content cannot end with trailing whitespace": _text_of(content)
            != _text_of(content).rstrip(),
            "an answer that was begun needs a question before it": len(self.messages) == 1,
            "an answer that was begun cannot be thought about first: leave thinking out": self.shows_thinking,
            "an answer that was begun has no form to keep: leave output_config.format out": form is not None,
            "an answer that was begun cannot be a call: leave tool_choice out": self.tool_choice is not None
            and self.tool_choice.type in ("any", "tool"),
        }
        if wrong := next((words for words, holds in problems.items() if holds), None):
            raise ValueError(wrong)
        return self

    @property
    def continues(self) -> bool:
        """The last message is the beginning of the answer."""
        return self.messages[-1].role == "assistant"

    @property
    def shows_thinking(self) -> bool:
        return self.thinking is not None and self.thinking.type != "disabled"

    def chat(self, **settings: Any) -> ChatRequest:
        choice = self.tool_choice
        kinds = {"auto": "auto", "any": "required", "none": "none"}
        asked: Any = None if choice is None else kinds.get(choice.type)
        if choice is not None and choice.type == "tool":
            asked = {"type": "function", "function": {"name": choice.name or ""}}
        tools = [
            {"type": "function", "function": {
                "name": tool.name, **({"description": tool.description} if tool.description else {}),
                "parameters": tool.input_schema,
            }}
            for tool in self.tools or ()
        ]  # fmt: skip
        single = choice is not None and choice.disable_parallel_tool_use
        form = None if self.output_config is None else self.output_config.format
        if form is not None:
            schema = {"name": "answer", "schema": form.schema_}
            settings["response_format"] = {"type": "json_schema", "json_schema": schema}
        return chat_request(
            model=self.model, messages=list(self._messages()), tools=tools or None, tool_choice=asked,
            parallel_tool_calls=False if single else None, **settings,
        ).with_thinking(None if self.thinking is None and not self.continues else self.shows_thinking)  # fmt: skip

    def _messages(self) -> Iterator[dict[str, Any]]:
        if self.system:
            yield {"role": "system", "content": _text(self.system)}
        for message in self.messages:
            yield from _user(message) if message.role == "user" else _assistant(message)


class MessagesRequest(CountRequest):
    """Body of POST /v1/messages."""

    max_tokens: Annotated[int, Field(ge=1, lt=2**31)]
    stop_sequences: Annotated[list[str], Field(max_length=16)] | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    stream: bool = False

    def full_chat(self) -> ChatRequest:
        return self.chat(
            max_tokens=self.max_tokens, stop=self.stop_sequences, temperature=self.temperature, top_p=self.top_p,
            top_k=self.top_k or 0, stream=self.stream,
        )  # fmt: skip


def _user(message: InputMessage) -> Iterator[dict[str, Any]]:
    """Results of tools are messages of their own; text between them stays where it is."""
    if isinstance(message.content, str):
        yield {"role": "user", "content": message.content}
        return
    text: list[TextBlock] = []
    for block in message.content:
        if isinstance(block, TextBlock):
            text.append(block)
            continue
        if text:
            yield {"role": "user", "content": _text(text)}
            text = []
        if isinstance(block, ResultBlock):
            yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": _text(block.content)}
    if text or not message.content:
        yield {"role": "user", "content": _text(text)}


def _assistant(message: InputMessage) -> Iterator[dict[str, Any]]:
    if isinstance(message.content, str):
        yield {"role": "assistant", "content": message.content}
        return
    blocks = message.content
    plain: dict[str, Any] = {
        "role": "assistant", "content": _text([block for block in blocks if isinstance(block, TextBlock)])
    }  # fmt: skip
    thought = "".join(block.thinking for block in blocks if isinstance(block, ThinkingBlock))
    calls = [
        {"id": block.id, "type": "function", "function": {
            "name": block.name, "arguments": json.dumps(block.input, ensure_ascii=False)
        }}
        for block in blocks if isinstance(block, CallBlock)
    ]  # fmt: skip
    yield {
        **plain,
        **({"reasoning_content": thought} if thought else {}),
        **({"tool_calls": calls} if calls else {}),
    }


def _text(content: str | Sequence[TextBlock]) -> str:
    return content if isinstance(content, str) else "".join(block.text for block in content)


def _text_of(content: str | Sequence[Any]) -> str:
    """Of the blocks that are text."""
    return (
        content if isinstance(content, str) else _text([one for one in content if isinstance(one, TextBlock)])
    )


class Answer:
    """One message on its way out. Whoever wants no stream takes `body` at the end."""

    def __init__(self, body: MessagesRequest, turn: Turn) -> None:
        self._turn, self._thinking, self._limit = turn, body.shows_thinking, body.max_tokens
        self._kind: str | None = None
        self.body: dict[str, Any] = {
            "id": turn.generation.exchange.id, "type": "message", "role": "assistant", "model": turn.served.name,
            "content": [], "stop_reason": None, "stop_sequence": None, "usage": self._usage(),
        }  # fmt: skip

    async def complete(self) -> dict[str, Any]:
        async for _ in self._told():
            pass
        return self.body

    async def events(self) -> AsyncGenerator[dict[str, str], None]:
        try:
            async with aclosing(self._told()) as events:
                async for kind, fields in events:
                    yield {"event": kind, "data": json.dumps({"type": kind, **fields}, ensure_ascii=False)}
        except Exception as error:  # too late for a status code
            told = stream_error(error, self.body["id"])
            failed = anthropic_error(500 if told["type"] == "server_error" else 400, told["message"])
            yield {"event": "error", "data": json.dumps(failed, ensure_ascii=False)}

    async def close(self) -> None:
        await self._turn.close()

    async def _told(self) -> AsyncGenerator[Event, None]:
        yield "message_start", {"message": {**self.body, "content": []}}
        yield "ping", {}
        async with aclosing(self._turn.pieces()) as pieces:
            async for piece in pieces:
                for event in self._push(piece):
                    yield event
        for event in self._stop_block():
            yield event
        reason, stopped_by = self._turn.reason, self._turn.answer.stopped_by
        if reason == BLOCKED:
            self.body["stop_reason"] = "refusal"
        elif self._turn.calls:
            self.body["stop_reason"] = "tool_use"
        elif reason == "stop":
            self.body["stop_reason"] = "end_turn" if stopped_by is None else "stop_sequence"
            self.body["stop_sequence"] = stopped_by
        else:
            full = self._turn.usage.completion_tokens < self._limit
            self.body["stop_reason"] = "model_context_window_exceeded" if full else "max_tokens"
        self.body["usage"], found = self._usage(), self._turn.report()
        self.body.update(found)
        ended = {name: self.body[name] for name in ("stop_reason", "stop_sequence")}
        yield "message_delta", {"delta": ended, "usage": self.body["usage"], **found}
        yield "message_stop", {}

    def _push(self, piece: Piece) -> Iterator[Event]:
        if piece.kind == "call":
            yield from self._stop_block()
            yield from self._call(piece.call)
            return
        if piece.kind == "reasoning" and not self._thinking:
            return
        field = "text" if piece.kind == "text" else "thinking"
        if self._kind != field:
            yield from self._stop_block()
            block = {"type": field, field: "", **({"signature": ""} if field == "thinking" else {})}
            self.body["content"].append(block)
            self._kind = field
            yield "content_block_start", {"index": self._place, "content_block": dict(block)}
        self.body["content"][-1][field] += piece.text
        yield (
            "content_block_delta",
            {"index": self._place, "delta": {"type": f"{field}_delta", field: piece.text}},
        )

    def _call(self, call: Mapping[str, Any]) -> Iterator[Event]:
        function = call["function"]
        value = json.loads(function["arguments"])
        given = value if isinstance(value, dict) else {"arguments": value}  # their clients read objects only
        block = {
            "type": "tool_use",
            "id": f"toolu_{uuid.uuid4().hex[:24]}",
            "name": function["name"],
            "input": given,
            **approval(call),
        }
        self.body["content"].append(block)
        yield "content_block_start", {"index": self._place, "content_block": {**block, "input": {}}}
        written = function["arguments"] if given is value else json.dumps(given, ensure_ascii=False)
        delta = {"type": "input_json_delta", "partial_json": written}
        yield "content_block_delta", {"index": self._place, "delta": delta}
        yield "content_block_stop", {"index": self._place}

    def _stop_block(self) -> Iterator[Event]:
        if self._kind is not None:
            self._kind = None
            yield "content_block_stop", {"index": self._place}

    @property
    def _place(self) -> int:
        return len(self.body["content"]) - 1

    def _usage(self) -> dict[str, Any]:
        """What was found in the cache is counted apart, as Anthropic does."""
        usage = self._turn.usage
        return {
            "input_tokens": usage.prompt_tokens - usage.cached_tokens, "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": usage.cached_tokens, "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"thinking_tokens": self._turn.answer.reasoning_tokens},
        }  # fmt: skip
