"""What the API accepts. Fields that would change the answer and are not supported are refused, others are ignored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, field_validator, model_validator

from hanok.engine.api import SamplingParams, Structure
from hanok.server.document_schema import ChatDocuments
from hanok.server.formats import StructureFields
from hanok.server.sampling import Refusing, SamplingFields
from hanok.server.template_settings import TemplateFields


def by_type(error: str, message: str, *, default: str | None = None) -> Discriminator:
    """Which of several models an object is, by its `type` (`default` where that is no text). Others are refused with this."""

    def kind(value: Any) -> str | None:
        found = value.get("type") if isinstance(value, Mapping) else getattr(value, "type", None)
        return found if isinstance(found, str) else default

    return Discriminator(kind, custom_error_type=error, custom_error_message=message)


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class FunctionCall(BaseModel):
    name: str
    arguments: str = "{}"


class ToolCall(BaseModel):
    id: str = ""
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(BaseModel):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None

    @model_validator(mode="after")
    def _has_content(self) -> ChatMessage:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise ValueError(f"a {self.role} message needs content")
        return self

    def plain(self) -> dict[str, Any]:
        """The shared message format."""
        content = self.content
        text = "".join(part.text for part in content) if isinstance(content, list) else content or ""
        role = "system" if self.role == "developer" else self.role
        message: dict[str, Any] = {"role": role, "content": text}
        if self.tool_calls:
            message["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        if self.reasoning_content and self.role == "assistant":
            message["reasoning_content"] = self.reasoning_content
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        return message


class Function(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str


class Tool(BaseModel):
    type: Literal["function"]
    function: Function


class NamedFunction(BaseModel):
    name: str


class NamedChoice(BaseModel):
    """A function that must be called."""

    type: Literal["function"]
    function: NamedFunction


class ChatRequest(SamplingFields, StructureFields, TemplateFields, Refusing):
    """Body of POST /v1/chat/completions."""

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    show_decoding: bool = False
    """Not OpenAI's: report the temperature and top-p that the model's decoding heads chose for each token."""
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    documents: ChatDocuments | None = None
    """Not OpenAI's: answer from these collections, with citations."""

    @classmethod
    def refused(cls) -> dict[str, str]:
        return {
            "functions": "use tools",
            "function_call": "use tool_choice",
            "audio": "this server answers in text",
            "web_search_options": "give the model a tool",
            "continue_final_message": "ask for a completion of the prompt that /tokenize writes",
            "include_stop_str_in_output": "the stop string is known: put it behind the answer",
            "prompt_logprobs": "ask for a completion with echo and logprobs",
            "return_token_ids": "ask /tokenize, or for logprobs",
            "verbosity": "say it in the prompt",
        }

    @model_validator(mode="after")
    def _alternatives_need_logprobs(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs = true")
        return self

    @model_validator(mode="after")
    def _calls_can_be_forced(self) -> ChatRequest:
        if not self.tools and self.tool_choice in (None, "auto", "none"):
            return self
        names = [tool.function.name for tool in self.tools or ()]
        choice = self.tool_choice
        if isinstance(choice, NamedChoice) and choice.function.name not in names:
            raise ValueError(
                f'tool_choice names "{choice.function.name}"; tools has {", ".join(names) or "none"}'
            )
        if choice == "required" and not names:
            raise ValueError('tool_choice "required" needs tools')
        if self.parallel_tool_calls is False and names and choice in (None, "auto"):
            raise ValueError('parallel_tool_calls = false needs tool_choice "required" or a function')
        if self.format_field and names and choice != "none":
            raise ValueError(
                f'{self.format_field} and tools cannot be asked for together: take one, or tool_choice "none"'
            )
        return self

    def plain_messages(self) -> list[dict[str, Any]]:
        return [message.plain() for message in self.messages]

    def plain_tools(self) -> list[dict[str, Any]] | None:
        if not self.tools or self.tool_choice == "none":
            return None
        return [tool.model_dump() for tool in self.tools]

    @property
    def structure_field(self) -> str | None:
        """The field of the body that says what the answer must be."""
        return self.format_field or ("tools" if self._forced_calls() else None)

    def _forced_calls(self) -> Structure | None:
        if not isinstance(self.tool_choice, NamedChoice) and self.tool_choice != "required":
            return None
        named = self.tool_choice.function.name if isinstance(self.tool_choice, NamedChoice) else None
        functions = [
            tool.function.model_dump() for tool in self.tools or () if named in (None, tool.function.name)
        ]
        several = named is None and self.parallel_tool_calls is not False
        return Structure(kind="tool_calls", value=json.dumps({"functions": functions, "several": several}))

    def sampling(self) -> SamplingParams:
        return SamplingParams(
            **self.sampling_fields(),
            max_tokens=self.max_completion_tokens or self.max_tokens,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            structure=self.format() or self._forced_calls(),
        )


class FeedbackRequest(BaseModel):
    """Body of POST /v1/feedback: what somebody thought of the answer with this id."""

    request_id: Annotated[str, Field(max_length=64)]
    choice: Annotated[int, Field(ge=0)] = 0
    rating: Literal[1, -1]
    correction: Annotated[str, Field(max_length=20_000)] | None = None
    reason: Annotated[str, Field(max_length=2_000)] | None = None
    user: Annotated[str, Field(max_length=200)] = ""

    @field_validator("correction", "reason")
    @classmethod
    def _blank_is_none(cls, value: str | None) -> str | None:
        return value.strip() or None if value is not None else None
