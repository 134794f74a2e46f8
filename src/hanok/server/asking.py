"""A conversation put to a model: what chat completions, responses and Anthropic's messages share.

Each of them is read as a `ChatRequest`, so that all have the same rules; they differ in how the answer is told.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from pydantic import ValidationError

from hanok.engine.api import FinishReason, Request, Usage
from hanok.engine.text import AnswerStream, chat_prompt, continued, opens_reasoning
from hanok.errors import StructureError
from hanok.server.errors import ApiError, problem
from hanok.server.generation import BLOCKED, Generation
from hanok.server.guarded import Guarded, LastFilter, Reader, read
from hanok.server.guarding import Stretch, Watch
from hanok.server.models import Served
from hanok.server.operations.requests import CURRENT
from hanok.server.principal import Principal
from hanok.server.schema import ChatRequest
from hanok.server.services import Services
from hanok.tokens.template import Setting
from hanok.tokens.tokenizer import Tokenizer

SHORT, FEW = (
    2048,
    32,
)  # characters and messages of a conversation that is read in some tenths of a millisecond
_PLAIN = {"role", "content"}
Reason = FinishReason | Literal["content_filter"]


@dataclass(frozen=True, slots=True)
class Asked:
    """A generation under way, what the model was given, and a reader for each of its samples. `watch`: what its guard found."""

    served: Served
    generation: Generation
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    answers: Sequence[Reader]
    watch: Watch
    last: Sequence[LastFilter] = ()


async def ask(
    services: Services, body: ChatRequest, principal: Principal, *, name: str, route: str, streamed: bool,
    stretches: Sequence[Stretch] = (), conversation: str | None = None, continues: bool = False,
) -> Asked:  # fmt: skip
    """Raises ApiError, InputError, ContextLengthError or QueueFullError; nothing runs then.

    Args:
        name: the id of request and answer. stretches: of the messages, that come from documents.
        conversation: what it is told by; by default the first question of the body.
        continues: the last message is the beginning of the answer, which goes on behind it.
    """
    told_by = conversation if conversation is not None else conversation_of(body, principal)
    served = await services.models.take(body.model, principal, conversation=told_by)
    watch = Watch(services, principal, served=served, request_id=name)
    try:
        params = body.sampling()
        structure = params.structure  # calls that must be made have the form of the tools, which are read
        form = "" if structure is None or structure.kind == "tool_calls" else structure.value
        messages, tools = await watch.conversation(body.plain_messages(), body.plain_tools(), form, stretches)
        settings = body.template_settings(served.engine.tokenizer)
        begun = messages[-1]["content"] if continues else None
        prompt = await _prompt(served.engine.tokenizer, messages, tools, settings, begun)
    except BaseException:
        services.models.give_back(served)
        raise
    request = Request(
        id=name, prompt_ids=prompt, params=params, tenant=principal.tenant, adapter=served.adapter_name
    )
    try:
        generation = await Generation.begin(
            services, served, principal, request, route=route, streamed=streamed
        )
    except StructureError as error:
        raise ApiError(400, str(error), param=body.structure_field, code="invalid_structure") from error
    tokenizer = served.engine.tokenizer
    try:
        await generation.begun()
        answers = [
            AnswerStream(
                tokenizer, stop=params.stop, tools=tools is not None, thinking=opens_reasoning(tokenizer, prompt),
                exact=params.structure is not None or continues, begun=continues,
            )
            for _ in range(generation.samples)
        ]  # fmt: skip
        hidden = "\n".join(message["content"] for message in messages if message["role"] == "system")
        written = partial(tokenizer.decode, skip_special=False)
        guarded = watch.answers(
            answers, hidden=hidden, before=begun or "", stops=bool(params.stop), written=written
        )
        # citations are taken out of such answers
        last = watch.last(len(answers), hidden=hidden) if stretches else []
    except BaseException:  # a rule of the operator's may fail: nobody would read what runs already
        await generation.close()
        raise
    return Asked(served, generation, messages, tools, guarded, watch, last)


async def count_prompt(
    services: Services, chat: ChatRequest, principal: Principal, *, continues: bool = False
) -> int:
    """Tokens that a model reads of a conversation. Args: continues: as `ask` takes it."""
    async with services.models.use(chat.model, principal) as served:
        tokenizer = served.engine.tokenizer
        settings = chat.template_settings(tokenizer)
        messages = chat.plain_messages()
        begun = messages[-1]["content"] if continues else None
        return len(await _prompt(tokenizer, messages, chat.plain_tools(), settings, begun))


async def _prompt(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None,
    settings: Mapping[str, Setting], begun: str | None = None,
) -> list[int]:  # fmt: skip
    """Beside the event loop, unless it takes less than a thread would. Args: begun: what the last message has of the answer."""
    if begun is not None:
        asked = await _prompt(tokenizer, messages[:-1], tools, settings)
        return await asyncio.to_thread(continued, tokenizer, asked, begun)
    few = tools is None and len(messages) <= FEW and all(message.keys() <= _PLAIN for message in messages)
    if few and sum(len(message["content"] or "") for message in messages) <= SHORT:
        return chat_prompt(tokenizer, messages, settings=settings)
    return await asyncio.to_thread(chat_prompt, tokenizer, messages, tools=tools, settings=settings)


def conversation_of(body: ChatRequest, principal: Principal) -> str:
    """What tells a conversation from others: who asks, and the first thing that was asked, which every turn sends again."""
    first = next((one for one in body.messages if one.role == "user"), body.messages[0])
    return f"{principal.id}\0{first.plain()['content']}"


def is_blocked(answer: Reader) -> bool:
    """The guard has ended it."""
    return isinstance(answer, Guarded) and answer.blocked


def new_calls(answer: Reader, known: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Calls that became whole. Ids of their own: the same call twice in a conversation is two calls. The request is told of
    them."""
    new = [
        {
            **call,
            "id": f"call_{uuid.uuid4().hex[:24]}",
            "function": {**call["function"], "arguments": _json(call)},
        }
        for call in answer.calls[len(known) :]
    ]
    request = CURRENT.get()
    if request is not None:
        request.calls += [
            {"id": call["id"], "tool": call["function"]["name"], "asked": "approval" in call} for call in new
        ]
    return new


def approval(call: Mapping[str, Any]) -> dict[str, Any]:
    """That a person is to be asked before the call is made, where the guard says so; not OpenAI's, nor Anthropic's."""
    return {"approval": call["approval"]} if "approval" in call else {}


def _json(call: Mapping[str, Any]) -> str:
    """Arguments that parse: a model that wrote bare text in their place gave a string."""
    written = call["function"]["arguments"]
    try:
        json.loads(written)
    except (ValueError, RecursionError):
        return json.dumps(written, ensure_ascii=False)
    return written


def chat_request(**fields: Any) -> ChatRequest:
    """Raises ApiError 400: what another API asks for is against the rules of a chat."""
    try:
        return ChatRequest(**fields)
    except ValidationError as error:
        param, message, code = problem(error.errors())
        raise ApiError(400, message, param=param, code=code) from error


@dataclass(frozen=True, slots=True)
class Piece:
    """What is new in an answer: some reasoning, some text, or a whole call in OpenAI's form."""

    kind: Literal["reasoning", "text", "call"]
    text: str = ""
    call: Mapping[str, Any] = field(default_factory=dict)


class Turn:
    """One answer as a sequence of pieces. `reason` and `usage`, `content` and `calls` are there once `pieces` has ended, and so
    is the whole of `report`."""

    def __init__(self, asked: Asked) -> None:
        self.served, self.generation, self.report = asked.served, asked.generation, asked.watch.report
        (self.answer,) = asked.answers
        self.calls: list[dict[str, Any]] = []
        self.reason: Reason = "cancelled"
        self.usage = Usage(prompt_tokens=asked.generation.exchange.prompt_tokens, completion_tokens=0)

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        thought = 0
        async with aclosing(self.generation.deltas()) as deltas:
            async for _, delta in deltas:
                text = await read(self.answer, delta.ids)
                rest = ""
                if delta.finish_reason is not None:
                    self.reason, self.usage = delta.finish_reason, delta.usage or self.usage
                    rest = await read(self.answer, (), last=True)
                if len(self.answer.reasoning) > thought:
                    yield Piece("reasoning", self.answer.reasoning[thought:])
                    thought = len(self.answer.reasoning)
                if text:
                    yield Piece("text", text)
                for call in new_calls(self.answer, self.calls):
                    self.calls.append(call)
                    yield Piece("call", call=call)
                if rest:
                    yield Piece("text", rest)
                if is_blocked(self.answer):
                    self.reason = BLOCKED
                    if delta.finish_reason is None:
                        self.generation.drop(0)
        if self.reason == "cancelled":  # stopped, not finished
            await read(self.answer, (), last=True)

    async def close(self) -> None:
        await self.generation.close()

    def message(self) -> dict[str, Any]:
        """The shared message format."""
        message: dict[str, Any] = {"role": "assistant", "content": self.answer.content}
        if self.answer.reasoning:
            message["reasoning_content"] = self.answer.reasoning
        return {**message, "tool_calls": self.calls} if self.calls else message
