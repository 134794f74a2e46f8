"""Chat completions: from a body to engine requests, and from their deltas to OpenAI's objects, streamed or not."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from hanok.documents.answers import Grounded
from hanok.engine.api import Delta, FinishReason, Usage
from hanok.server.asking import Asked, ask, is_blocked, new_calls
from hanok.server.errors import stream_error
from hanok.server.generation import BLOCKED
from hanok.server.grounding import about
from hanok.server.guarded import Reader, read
from hanok.server.guarding import Stretch
from hanok.server.principal import Principal
from hanok.server.reports import Reports, fates_of
from hanok.server.schema import ChatRequest
from hanok.server.services import Services

Message = dict[str, Any]
_REASONS: Mapping[FinishReason, str] = {
    "stop": "stop",
    "length": "length",
    "cancelled": "length",
    "error": "stop",
}
_written = json.JSONEncoder(ensure_ascii=False).encode  # made once: `json.dumps` makes one each time
Keep = Callable[["Chat", list[Message]], Awaitable[None]]


class Chat:
    """One accepted chat request; `begin` makes it, and whoever began it calls `close`."""

    def __init__(self, body: ChatRequest, asked: Asked, keep: Keep, grounded: Grounded | None = None) -> None:
        self.id, self.created = asked.generation.exchange.id, int(time.time())
        self.body, self.messages, self.tools = body, asked.messages, asked.tools
        self.served, self._generation, self._answers = asked.served, asked.generation, asked.answers
        principal = asked.generation.exchange.principal
        self._keep, self.tenant, self.owner = keep, principal.tenant, principal.id
        self._report = asked.watch.report
        self._calls: list[list[dict[str, Any]]] = [[] for _ in self._answers]
        # an answer that must have a form keeps its brackets
        self._grounded = None if body.structure_field else grounded
        self._cited = [self._grounded.stream() for _ in self._answers] if self._grounded else []
        self._last = asked.last if self._cited else ()
        self._settled = ["" for _ in self._answers]
        self._thought = [0 for _ in self._answers]  # characters of reasoning that were sent
        self._logged = [Reports(_hidden_token) for _ in self._answers]
        self._held: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]] = [
            ([], []) for _ in self._answers
        ]
        self._decoded = [Reports(_hidden_law) for _ in self._answers]

    @classmethod
    async def begin(
        cls, services: Services, body: ChatRequest, principal: Principal, *, keep: Keep, grounded: Grounded | None = None,
        conversation: str | None = None,
    ) -> Chat:  # fmt: skip
        """Raises ApiError, InputError, ContextLengthError or QueueFullError before anything is sent.

        Args:
            keep: called with the finished assistant messages before the client gets the last of them.
            grounded: passages that are in the body's messages already; the answer's citations are resolved to them.
            conversation: as `ask` takes it.
        """
        name = f"chatcmpl-{secrets.token_hex(16)}"
        stretches = (
            [Stretch(span.message, span.start, span.end) for span in grounded.spans] if grounded else []
        )
        asked = await ask(
            services, body, principal, name=name, route="chat", streamed=body.stream, stretches=stretches,
            conversation=conversation,
        )  # fmt: skip
        return cls(body, asked, keep, grounded)

    async def close(self) -> None:
        await self._generation.close()

    async def complete(self) -> dict[str, Any]:
        """The whole `chat.completion` object."""
        reports: list[list[dict[str, Any]]] = [[] for _ in self._answers]
        laws: list[list[dict[str, Any]]] = [[] for _ in self._answers]
        last: dict[int, Delta] = {}
        async for index, delta in self._generation.deltas():
            answer = self._answers[index]
            text = await read(answer, delta.ids, last=delta.finish_reason is not None)
            if delta.finish_reason is not None:
                last[index] = delta
            self._cite(index, text, last=delta.finish_reason is not None)
            told, decoded = self._reports(index, delta)
            reports[index] += told
            laws[index] += decoded
        for index, answer in enumerate(self._answers):
            self._calls[index] += new_calls(answer, self._calls[index])
        messages = [self._message(index) for index in range(len(self._answers))]
        await self._keep(self, messages)
        choices = [
            {
                "index": index,
                "message": {
                    **message,
                    "content": message["content"] or (None if "tool_calls" in message else ""),
                    "refusal": None,
                    **self._annotations(index),
                },
                "finish_reason": self._reason(index, last[index], message),
                "logprobs": {"content": reports[index], "refusal": None} if self.body.logprobs else None,
                **({"decoding": laws[index]} if laws[index] else {}),
            }
            for index, message in enumerate(messages)
        ]
        usage = _usage([last[index].usage for index in range(len(choices))], self._answers)
        return {**self._head("chat.completion"), "choices": choices, "usage": usage, **self._beside()}

    async def events(self) -> AsyncGenerator[str, None]:
        """The data of each server-sent event."""
        try:
            async with aclosing(self._chunks()) as chunks:
                async for chunk in chunks:
                    yield chunk if isinstance(chunk, str) else _written(chunk)
        except Exception as error:  # too late for a status code
            yield _written({"error": stream_error(error, self.id)})
        yield "[DONE]"

    async def _chunks(self) -> AsyncGenerator[dict[str, Any] | str, None]:
        """Chunks, or what is to be sent of them."""
        around = [self._around(index) for index in range(len(self._answers))]
        for index in range(len(self._answers)):
            yield self._chunk(index, {"role": "assistant", "content": ""})
        last: dict[int, Delta] = {}
        async with aclosing(self._generation.deltas()) as deltas:
            async for index, delta in deltas:
                answer = self._answers[index]
                text = await read(answer, delta.ids, last=delta.finish_reason is not None)
                if delta.finish_reason is not None:
                    last[index] = delta
                text = self._cite(index, text, last=delta.finish_reason is not None)
                report, laws = self._reports(index, delta)
                for piece in self._pieces(index):
                    yield self._chunk(index, piece)
                if text and not (report or laws):
                    yield text_between(around[index], text)
                elif text or report or laws:
                    chunk = self._chunk(index, {"content": text}, logprobs=report)
                    if laws:
                        chunk["choices"][0]["decoding"] = laws
                    yield chunk
        messages = [self._message(index) for index in sorted(last)]
        await self._keep(self, messages)
        for (index, delta), message in zip(sorted(last.items()), messages, strict=True):
            yield {
                **self._chunk(index, self._annotations(index), reason=self._reason(index, delta, message)),
                **self._beside(),
            }
        if self.body.stream_options is not None and self.body.stream_options.include_usage:
            usage = _usage([delta.usage for _, delta in sorted(last.items())], self._answers)
            yield {**self._head("chat.completion.chunk"), "choices": [], "usage": usage}

    def _cite(self, index: int, text: str, *, last: bool) -> str:
        """The text with citations that resolve. An answer that the guard has blocked is stopped."""
        text = self._resolved(index, text, last=last)
        if self._blocked(index) and not last:
            self._generation.drop(index)
        return text

    def _blocked(self, index: int) -> bool:
        return is_blocked(self._answers[index]) or (bool(self._last) and self._last[index].blocked)

    def _resolved(self, index: int, text: str, *, last: bool) -> str:
        if not self._cited:
            return text
        stream = self._cited[index]
        settled = stream.push(text) + (stream.finish() if last else "")
        if self._last:
            settled = self._last[index].push(settled, last=last)
        self._settled[index] += settled
        return settled

    def _annotations(self, index: int) -> dict[str, Any]:
        return {"annotations": self._cited[index].annotations} if self._cited else {}

    def _beside(self) -> dict[str, Any]:
        """What the answer rests on, and what the guard found."""
        removed = sum(stream.removed for stream in self._cited)
        documents = {} if self._grounded is None else {"documents": about(self._grounded, removed)}
        return {**documents, **self._report()}

    def _pieces(self, index: int) -> list[dict[str, Any]]:
        """Deltas of what is new beside the content. A call is sent once it is whole, so that its arguments always parse: first
        who is called, then with what."""
        answer, found = self._answers[index], []
        thought = answer.reasoning[self._thought[index] :]
        if thought:
            self._thought[index] += len(thought)
            found.append({"reasoning_content": thought})
        for call in new_calls(answer, self._calls[index]):
            place, function = len(self._calls[index]), call["function"]
            self._calls[index].append(call)
            opening = {**call, "index": place, "function": {"name": function["name"], "arguments": ""}}
            found.append({"tool_calls": [opening]})
            found.append({"tool_calls": [{"index": place, "function": {"arguments": function["arguments"]}}]})
        return found

    def _message(self, index: int) -> Message:
        answer = self._answers[index]
        content = self._settled[index] if self._cited else answer.content
        message: Message = {"role": "assistant", "content": content}
        if answer.reasoning:
            message["reasoning_content"] = answer.reasoning
        if self._calls[index]:
            message["tool_calls"] = self._calls[index]
        return message

    def _reason(self, index: int, delta: Delta, message: Message) -> str:
        if self._blocked(index):
            return BLOCKED
        if message.get("tool_calls"):
            return "tool_calls"
        assert delta.finish_reason is not None
        return _REASONS[delta.finish_reason]

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id, "object": kind, "created": self.created, "model": self.served.name,
            "system_fingerprint": fingerprint(self.served.hash), "service_tier": "default",
        }  # fmt: skip

    def _chunk(
        self, index: int, delta: dict[str, Any], *, logprobs: list[dict[str, Any]] | None = None, reason: str | None = None
    ) -> dict[str, Any]:  # fmt: skip
        choice: dict[str, Any] = {"index": index, "delta": delta, "finish_reason": reason}
        choice["logprobs"] = {"content": logprobs, "refusal": None} if logprobs else None
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def _around(self, index: int) -> tuple[str, str]:
        """What stands before and behind the text in a chunk that has nothing else: written once for all of them."""
        return around_text(self._chunk(index, {"content": ""}), '"content": ""')

    def _reports(self, index: int, delta: Delta) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Log-probabilities and decoding of tokens that may be told now; where the text is read once more, at the end."""
        if not (self.body.logprobs or self.body.show_decoding):
            return [], []
        fates, logged, decoded = fates_of(self._answers[index]), self._logged[index], self._decoded[index]
        reports, laws = (
            logged.push(self._logprobs(delta), fates),
            decoded.push(self._decoding(delta), fates),
        )
        if not self._last:
            return reports, laws
        held_reports, held_laws = self._held[index]
        held_reports += reports
        held_laws += laws
        if delta.finish_reason is None:
            return [], []
        if self._last[index].hid:
            return logged.hide(held_reports), decoded.hide(held_laws)
        return held_reports, held_laws

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


def _hidden_token(_report: dict[str, Any]) -> dict[str, Any]:
    return {"token": "", "logprob": -9999.0, "bytes": [], "top_logprobs": []}


def _hidden_law(law: dict[str, Any]) -> dict[str, Any]:
    return {**law, "token": ""}


def _usage(usages: Sequence[Usage | None], answers: Sequence[Reader]) -> dict[str, Any]:
    known = [usage for usage in usages if usage is not None]
    prompt, completion = known[0].prompt_tokens, sum(usage.completion_tokens for usage in known)
    return {
        "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": known[0].cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": sum(answer.reasoning_tokens for answer in answers)},
    }  # fmt: skip


def around_text(chunk: Mapping[str, Any], field: str) -> tuple[str, str]:
    """The chunk as JSON, before and behind the value of a text field that is empty in it; `field`: as JSON has it."""
    before, empty, behind = _written(chunk).partition(field)
    assert empty
    return before + field[:-2], behind


def text_between(around: tuple[str, str], text: str) -> str:
    """The chunk with that text."""
    return f"{around[0]}{_written(text)}{around[1]}"


def fingerprint(model_hash: str) -> str:
    """Of the weights that answered: with it, a seed decides the answer."""
    return f"fp_{model_hash[:12]}"
