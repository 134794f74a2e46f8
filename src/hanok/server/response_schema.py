"""What POST /v1/responses accepts, and its items as messages of a chat."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from hanok.server.asking import chat_request
from hanok.server.errors import ApiError
from hanok.server.sampling import Refusing
from hanok.server.schema import ChatRequest, by_type
from hanok.server.template_settings import Effort

Message = dict[str, Any]


class TextContent(BaseModel):
    type: Literal["input_text", "output_text", "text", "summary_text", "reasoning_text"]
    text: str


class MessageItem(BaseModel):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[TextContent]


class CallItem(BaseModel):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class OutputItem(BaseModel):
    """What a function gave."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[TextContent]


class ReasoningItem(BaseModel):
    type: Literal["reasoning"]
    summary: list[TextContent] = Field(default_factory=list)
    content: list[TextContent] | None = None


def _form(value: Any) -> str:
    return "items" if isinstance(value, list) else "text"


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[OutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    by_type(
        "unsupported_item", "an item is a message, function_call, function_call_output or reasoning", default="message"
    ),
]  # fmt: skip


class FunctionTool(BaseModel):
    model_config = ConfigDict(extra="allow")
    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedFunctionTool(BaseModel):
    type: Literal["function"]
    name: str


class TextFormat(BaseModel):
    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str = "answer"
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None
    description: str | None = None


class TextOptions(BaseModel):
    format: TextFormat = TextFormat()


class Reasoning(BaseModel):
    """`summary` is taken: what the model thought is told as it was."""

    effort: Effort | None = None
    summary: str | None = None


class ResponseRequest(Refusing):
    """Body of POST /v1/responses. The settings of sampling behind `top_p` are not OpenAI's: as in a chat completion."""

    model_config = ConfigDict(allow_inf_nan=False)

    model: str
    input: Annotated[
        Annotated[str, Tag("text")] | Annotated[list[Item], Field(min_length=1), Tag("items")],
        Discriminator(_form),
    ]
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = True
    stream: bool | None = False
    background: bool | None = False
    tools: Annotated[list[FunctionTool], Field(max_length=128)] = Field(default_factory=list)
    tool_choice: Literal["auto", "none", "required"] | NamedFunctionTool = "auto"
    parallel_tool_calls: bool | None = None
    text: TextOptions = TextOptions()
    max_output_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    truncation: Literal["disabled"] | None = None
    metadata: dict[str, str] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31)] = 0
    min_p: Annotated[float, Field(ge=0, lt=1)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=1000)] = 1.0
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    user: str | None = None
    reasoning: Reasoning | None = None

    @classmethod
    def refused(cls) -> dict[str, str]:
        return {
            "conversation": "use previous_response_id",
            "prompt": "send instructions and input",
            "top_logprobs": "ask for a chat completion",
        }

    def chat(self, messages: Sequence[Message]) -> ChatRequest:
        """Args: messages: instructions, what was said before, and the input."""
        asked = self.text.format
        format_: dict[str, Any] | None = None
        if asked.type == "json_object":
            format_ = {"type": "json_object"}
        elif asked.type == "json_schema":
            if asked.schema_ is None:
                raise ApiError(400, "text.format: json_schema needs schema", param="text.format.schema")
            format_ = {"type": "json_schema", "json_schema": {"name": asked.name, "schema": asked.schema_}}
        choice: Any = self.tool_choice
        if isinstance(choice, NamedFunctionTool):
            choice = {"type": "function", "function": {"name": choice.name}}
        tools = [
            {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)}
            for tool in self.tools
        ]
        return chat_request(
            model=self.model, messages=list(messages), stream=bool(self.stream), tools=tools or None,
            tool_choice=choice if tools or choice == "required" or isinstance(choice, dict) else None,
            parallel_tool_calls=self.parallel_tool_calls, response_format=format_,
            max_tokens=self.max_output_tokens, temperature=self.temperature, top_p=self.top_p, top_k=self.top_k,
            min_p=self.min_p, repetition_penalty=self.repetition_penalty, seed=self.seed,
            reasoning_effort=None if self.reasoning is None else self.reasoning.effort,
        )  # fmt: skip

    def items(self) -> list[dict[str, Any]]:
        """The input as items, each with an id."""
        if isinstance(self.input, str):
            content = [{"type": "input_text", "text": self.input}]
            return [{"id": f"msg_{uuid.uuid4().hex}", "type": "message", "role": "user", "content": content}]
        prefixes = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}
        return [
            {"id": f"{prefixes[item.type]}_{uuid.uuid4().hex}", **_plain_item(item)} for item in self.input
        ]

    def messages(self) -> list[Message]:
        """The input in the shared message format."""
        if isinstance(self.input, str):
            return [{"role": "user", "content": self.input}]
        return list(_messages(self.input))


def _plain_item(item: Any) -> dict[str, Any]:
    plain = item.model_dump(exclude_none=True)
    if item.type == "message" and isinstance(item.content, str):
        kind = "output_text" if item.role == "assistant" else "input_text"
        plain["content"] = [{"type": kind, "text": item.content}]
    return plain


def _messages(items: Iterable[Any]) -> Iterable[Message]:
    """Calls belong to the assistant's message before them, reasoning to the one behind it."""
    assistant: Message | None = None
    thought = ""
    for item in items:
        if isinstance(item, ReasoningItem):
            thought = _text(item.content or item.summary)
            continue
        if isinstance(item, MessageItem) and item.role != "assistant":
            if assistant is not None:
                yield assistant
                assistant = None
            yield {"role": item.role, "content": _text(item.content)}
            continue
        if isinstance(item, OutputItem):
            if assistant is not None:
                yield assistant
                assistant = None
            yield {"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)}
            continue
        if isinstance(item, MessageItem) and assistant is not None:
            yield assistant
            assistant = None
        if assistant is None:
            assistant = {"role": "assistant", "content": ""}
            if thought:
                assistant["reasoning_content"], thought = thought, ""
        if isinstance(item, MessageItem):
            assistant["content"] = _text(item.content)
        else:
            call = {"name": item.name, "arguments": item.arguments}
            assistant.setdefault("tool_calls", []).append(
                {"id": item.call_id, "type": "function", "function": call}
            )
    if assistant is not None:
        yield assistant


def _text(content: str | Sequence[TextContent]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)
