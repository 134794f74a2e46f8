"""Chat completions: from a body to engine requests, and from their deltas to OpenAI's objects, streamed or not."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from hanok.engine.api import Delta, FinishReason, Request, Usage
from hanok.engine.text import AnswerStream, chat_prompt
from hanok.errors import EngineError, HanokError, StructureError
from hanok.reporting import log
from hanok.server.errors import ApiError
from hanok.server.generation import Generation
from hanok.server.models import Served
from hanok.server.principal import Principal
from hanok.server.schema import ChatRequest
from hanok.server.services import Services

Message = dict[str, Any]
_REASONS: Mapping[FinishReason, str] = {
    "stop": "stop",
    "length": "length",
    "cancelled": "length",
    "error": "stop",
}
Keep = Callable[["Chat", list[Message]], Awaitable[None]]


class Chat:
    """One accepted chat request; `begin` makes it."""

    def __init__(self, body: ChatRequest, served: Served, generation: Generation, keep: Keep) -> None:
        self.id, self.created = generation.exchange.id, int(time.time())
        self.body, self.messages, self.tools = body, body.plain_messages(), body.plain_tools()
        self.served, self._generation, self._keep = served, generation, keep
        params = body.sampling()
        self._answers = [
            AnswerStream(
                served.engine.tokenizer, stop=params.stop, tools=self.tools is not None, exact=params.structure is not None
            )
            for _ in range(generation.samples)
        ]  # fmt: skip

    @classmethod
    async def begin(cls, services: Services, body: ChatRequest, principal: Principal, *, keep: Keep) -> Chat:
        """Raises ApiError, InputError, ContextLengthError or QueueFullError before anything is sent.

        Args:
            keep: called with the finished assistant messages before the client gets the last of them.
        """
        served = services.models.find(body.model, principal)
        params = body.sampling()
        prompt = await asyncio.to_thread(
            chat_prompt, served.engine.tokenizer, body.plain_messages(), tools=body.plain_tools()
        )
        request = Request(
            id=f"chatcmpl-{uuid.uuid4().hex}", prompt_ids=prompt, params=params, tenant=principal.tenant,
            adapter=None if served.adapter is None else served.adapter.name,
        )  # fmt: skip
        try:
            generation = await Generation.begin(
                services, served, principal, request, route="chat", streamed=body.stream
            )
        except StructureError as error:
            raise ApiError(400, str(error), param=body.structure_field, code="invalid_structure") from error
        return cls(body, served, generation, keep)

    async def complete(self) -> dict[str, Any]:
        """The whole `chat.completion` object."""
        reports: list[list[dict[str, Any]]] = [[] for _ in self._answers]
        laws: list[list[dict[str, Any]]] = [[] for _ in self._answers]
        last: dict[int, Delta] = {}
        async for index, delta in self._generation.deltas():
            self._answers[index].push(delta.ids)
            reports[index] += self._logprobs(delta)
            laws[index] += self._decoding(delta)
            if delta.finish_reason is not None:
                last[index] = delta
        messages = [_message(answer.finish()[1], answer) for answer in self._answers]
        await self._keep(self, messages)
        choices = [
            {
                "index": index,
                "message": {
                    **message,
                    "content": message["content"] or (None if "tool_calls" in message else ""),
                },
                "finish_reason": _reason(last[index], message),
                "logprobs": {"content": reports[index]} if self.body.logprobs else None,
                **({"decoding": laws[index]} if laws[index] else {}),
            }
            for index, message in enumerate(messages)
        ]
        return {
            "id": self.id, "object": "chat.completion", "created": self.created, "model": self.served.name,
            "choices": choices, "usage": _usage([last[index].usage for index in range(len(choices))]),
        }  # fmt: skip

    async def events(self) -> AsyncGenerator[str, None]:
        """The data of each server-sent event."""
        try:
            async with aclosing(self._chunks()) as chunks:
                async for chunk in chunks:
                    yield json.dumps(chunk, ensure_ascii=False)
        except HanokError as error:  # too late for a status code
            kind = "server_error" if isinstance(error, EngineError) else "invalid_request_error"
            yield json.dumps({"error": {"message": str(error), "type": kind}}, ensure_ascii=False)
        except Exception as error:
            log.error("request %s failed", self.id, exc_info=error)
            yield json.dumps(
                {"error": {"message": "the server failed; its log says why", "type": "server_error"}}
            )
        yield "[DONE]"

    async def _chunks(self) -> AsyncGenerator[dict[str, Any], None]:
        for index in range(len(self._answers)):
            yield self._chunk(index, {"role": "assistant", "content": ""})
        last: dict[int, Delta] = {}
        messages: dict[int, Message] = {}
        async with aclosing(self._generation.deltas()) as deltas:
            async for index, delta in deltas:
                answer = self._answers[index]
                text, report = answer.push(delta.ids), self._logprobs(delta)
                if delta.finish_reason is not None:
                    rest, calls = answer.finish()
                    messages[index], last[index] = _message(calls, answer), delta
                    text += rest
                laws = self._decoding(delta)
                if text or report or laws:
                    chunk = self._chunk(index, {"content": text}, logprobs=report)
                    if laws:
                        chunk["choices"][0]["decoding"] = laws
                    yield chunk
        await self._keep(self, [messages[index] for index in sorted(messages)])
        for index, delta in sorted(last.items()):
            calls = messages[index].get("tool_calls")
            if calls:
                yield self._chunk(
                    index, {"tool_calls": [{"index": place, **call} for place, call in enumerate(calls)]}
                )
            yield self._chunk(index, {}, reason=_reason(delta, messages[index]))
        if self.body.stream_options is not None and self.body.stream_options.include_usage:
            usage = _usage([delta.usage for _, delta in sorted(last.items())])
            yield {**self._head(), "choices": [], "usage": usage}

    def _head(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.served.name,
        }

    def _chunk(
        self, index: int, delta: dict[str, Any], *, logprobs: list[dict[str, Any]] | None = None, reason: str | None = None
    ) -> dict[str, Any]:  # fmt: skip
        choice: dict[str, Any] = {"index": index, "delta": delta, "finish_reason": reason}
        choice["logprobs"] = {"content": logprobs} if logprobs else None
        return {**self._head(), "choices": [choice]}

    def _logprobs(self, delta: Delta) -> list[dict[str, Any]]:
        if not self.body.logprobs or delta.logprobs is None or delta.top_logprobs is None:
            return []
        return [
            {**self._token(token, logprob), "top_logprobs": [self._token(*item) for item in top.items()]}
            for token, logprob, top in zip(delta.ids, delta.logprobs, delta.top_logprobs, strict=True)
        ]

    def _decoding(self, delta: Delta) -> list[dict[str, Any]]:
        if not self.body.show_decoding:
            return []
        return [
            {"token": self.served.engine.tokenizer.decode([token], skip_special=False),
             "temperature": round(temperature, 4), "top_p": round(top_p, 4)}
            for token, (temperature, top_p) in zip(delta.ids, delta.decoding or (), strict=False)
        ]  # fmt: skip

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        tokenizer = self.served.engine.tokenizer
        text = tokenizer.decode([token], skip_special=False)
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(tokenizer.token_bytes(token))}


def _message(calls: Sequence[Mapping[str, Any]], answer: AnswerStream) -> Message:
    message: Message = {"role": "assistant", "content": answer.content}
    if calls:  # ids of their own: the same call twice in a conversation is two calls
        message["tool_calls"] = [{**call, "id": f"call_{uuid.uuid4().hex[:24]}"} for call in calls]
    return message


def _reason(delta: Delta, message: Message) -> str:
    if message.get("tool_calls"):
        return "tool_calls"
    assert delta.finish_reason is not None
    return _REASONS[delta.finish_reason]


def _usage(usages: Sequence[Usage | None]) -> dict[str, int]:
    known = [usage for usage in usages if usage is not None]
    prompt, completion = known[0].prompt_tokens, sum(usage.completion_tokens for usage in known)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
