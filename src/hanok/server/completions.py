"""Plain completions from begin to end: a generation for each prompt, told together or streamed."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from hanok.engine.api import Completion, Delta, FinishReason, Request
from hanok.engine.samples import gather
from hanok.errors import StructureError
from hanok.server.asking import is_blocked
from hanok.server.chat import fingerprint
from hanok.server.errors import ApiError, stream_error
from hanok.server.generation import BLOCKED, Generation
from hanok.server.guarded import PlainText, Reader, read
from hanok.server.guarding import Watch
from hanok.server.legacy import Collected, CompletionRequest, TokenLog
from hanok.server.models import Served
from hanok.server.principal import Principal
from hanok.server.prompts import prompt_ids, reread, texts_of
from hanok.server.reports import Reports, fates_of
from hanok.server.services import Services
from hanok.tokens.tokenizer import Tokenizer

_REASONS: Mapping[FinishReason, str] = {
    "stop": "stop",
    "length": "length",
    "cancelled": "length",
    "error": "stop",
}


_BEFORE = 256  # tokens of the prompt that the guard sees before an answer
_Chosen = tuple[Completion, Reader, int]  # and the number of its sample


class Completions:
    """One accepted request; `begin` makes it, and whoever began it calls `close`. Choices are numbered prompt by prompt."""

    def __init__(
        self, body: CompletionRequest, served: Served, requests: Sequence[Request], generations: Sequence[Generation], name: str,
        watch: Watch,
    ) -> None:  # fmt: skip
        self.id, self.created = name, int(time.time())
        self.body, self.served = body, served
        self._requests, self._generations = requests, generations
        self._tokenizer, self._watch = served.engine.tokenizer, watch

    @classmethod
    async def begin(cls, services: Services, body: CompletionRequest, principal: Principal) -> Completions:
        """Raises ApiError, InputError, ContextLengthError or QueueFullError; nothing runs then."""
        name, params = f"cmpl-{uuid.uuid4().hex}", body.sampling()
        generations: list[Generation] = []
        async with services.models.use(body.model, principal, conversation=principal.id) as served:
            tokenizer, special = served.engine.tokenizer, body.add_special_tokens
            ids = await asyncio.to_thread(prompt_ids, tokenizer, body.prompt, special=special)
            watch = Watch(services, principal, served=served, request_id=name)
            if watch.reads:
                most = served.engine.max_context
                texts = await asyncio.to_thread(texts_of, tokenizer, ids, most=most)
                new = await watch.prompts(texts)
                ids = await asyncio.to_thread(
                    reread, tokenizer, ids, texts, new, special=special, given=body.prompt
                )
            requests = [
                Request(
                    id=name if len(ids) == 1 else f"{name}-{place}", prompt_ids=prompt, params=params,
                    tenant=principal.tenant, adapter=served.adapter_name,
                )
                for place, prompt in enumerate(ids)
            ]  # fmt: skip
            try:
                for request in requests:
                    held = services.models.share(served)
                    generations.append(
                        await Generation.begin(
                            services, held, principal, request, route="completions", streamed=body.stream
                        )
                    )
                for generation in generations:
                    await generation.begun()
            except BaseException as error:
                for generation in generations:
                    await generation.close()
                if isinstance(error, StructureError):
                    raise ApiError(
                        400, str(error), param=body.format_field, code="invalid_structure"
                    ) from error
                raise
        return cls(body, served, requests, generations, name, watch)

    async def close(self) -> None:
        for generation in self._generations:
            await generation.close()

    async def complete(self) -> dict[str, Any]:
        """The whole `text_completion` object."""
        tasks = [asyncio.ensure_future(self._collect(place)) for place in range(len(self._requests))]
        try:
            groups = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        chosen = [
            (request, *one) for request, (kept, _) in zip(self._requests, groups, strict=True) for one in kept
        ]
        choices = [self._choice(request, done, reader) for request, done, reader, _ in chosen]
        numbers = {sample: number for number, (*_, sample) in enumerate(chosen)}
        usage = self._usage([completion for _, every in groups for completion in every])
        return {
            **self._head(), "choices": [{"index": place, **choice} for place, choice in enumerate(choices)], "usage": usage,
            **self._watch.report(numbers),
        }  # fmt: skip

    async def _collect(self, place: int) -> tuple[list[_Chosen], list[Completion]]:
        """The chosen samples of one prompt, and all."""
        request, generation = self._requests[place], self._generations[place]
        found, first = [Collected() for _ in range(generation.samples)], place * generation.samples
        readers = self._readers(request, generation.samples, first)
        async for index, delta in generation.deltas():
            found[index].push(delta)
            await read(readers[index], delta.ids)
            if is_blocked(readers[index]) and delta.finish_reason is None:
                generation.drop(index)
        for reader in readers:
            await read(reader, (), last=True)
        report = request.params.logprobs is not None or request.params.best_of is not None
        every = [one.completion(logprobs=report) for one in found]
        place_of = {id(one.ids): number for number, one in enumerate(every)}
        kept = [(one, place_of[id(one.ids)]) for one in gather(request, every)]
        return [(one, readers[number], first + number) for one, number in kept], every

    def _readers(self, request: Request, count: int, first: int) -> list[Reader]:
        """The answer may go on with a secret that the prompt began."""
        readers: list[Reader] = [PlainText(self._tokenizer, request.params.stop) for _ in range(count)]
        before = self._tokenizer.decode(request.prompt_ids[-_BEFORE:])
        return self._watch.answers(readers, before=before, stops=bool(request.params.stop), first=first)

    def _choice(self, request: Request, done: Completion, reader: Reader) -> dict[str, Any]:
        silent = self.body.max_tokens == 0
        prompt = self._tokenizer.decode(request.prompt_ids) if self.body.echo else ""
        reason = BLOCKED if is_blocked(reader) else _REASONS[done.finish_reason]
        return {
            "text": prompt + ("" if silent else reader.content),
            "logprobs": self._logprobs(request, done, reader, silent=silent),
            "finish_reason": "length" if silent else reason,
        }

    def _logprobs(
        self, request: Request, done: Completion, reader: Reader, *, silent: bool
    ) -> dict[str, Any] | None:
        if self.body.logprobs is None:
            return None
        log = TokenLog(self._tokenizer, self.body.logprobs)
        parts = []
        if self.body.echo:
            parts.append(
                log.write(request.prompt_ids, done.prompt_logprobs or (), done.prompt_top_logprobs or ())
            )
        if not silent:
            rows = _rows(log.write(done.ids, done.logprobs or (), done.top_logprobs or ()))
            parts += Reports(_hidden).push(rows, fates_of(reader))
            if (
                self.body.echo
                and done.stop_id is not None
                and done.stop_logprob is not None
                and not is_blocked(reader)
            ):
                parts.append(_ending(log, done.stop_id, done.stop_logprob))
        return _joined(parts)

    async def events(self) -> AsyncGenerator[str, None]:
        """The data of each server-sent event."""
        try:
            async with aclosing(self._chunks()) as chunks:
                async for chunk in chunks:
                    yield json.dumps(chunk, ensure_ascii=False)
        except Exception as error:  # too late for a status code
            yield json.dumps({"error": stream_error(error, self.id)}, ensure_ascii=False)
        yield "[DONE]"

    async def _chunks(self) -> AsyncGenerator[dict[str, Any], None]:
        writers: dict[int, _Writer] = {}
        last: list[Completion] = []
        samples = self._generations[0].samples
        async with aclosing(_merged(self._generations)) as deltas:
            async for place, index, delta in deltas:
                number, request = place * samples + index, self._requests[place]
                if number not in writers:
                    first = place * samples
                    for one, reader in enumerate(self._readers(request, samples, first), first):
                        writers[one] = _Writer(self.body, request, self._tokenizer, reader)
                writer = writers[number]
                if writer.ended:  # dropped after its end was under way
                    continue
                text, report = await writer.push(delta, of_prompt=writers[place * samples] if index else None)
                reason = None if delta.finish_reason is None else _REASONS[delta.finish_reason]
                if is_blocked(writer.reader):
                    if reason is None:
                        self._generations[place].drop(index)
                    else:
                        reason = BLOCKED
                if text or report or reason:
                    choice = {"index": number, "text": text, "logprobs": report, "finish_reason": reason}
                    yield {**self._head(), "choices": [choice], **(self._watch.report() if reason else {})}
                if delta.usage is not None:
                    last.append(Completion(ids=(), finish_reason="stop", usage=delta.usage))
        if self.body.stream_options is not None and self.body.stream_options.include_usage:
            yield {**self._head(), "choices": [], "usage": self._usage(last)}

    def _head(self) -> dict[str, Any]:
        return {
            "id": self.id, "object": "text_completion", "created": self.created, "model": self.served.name,
            "system_fingerprint": fingerprint(self.served.hash),
        }  # fmt: skip

    def _usage(self, done: Sequence[Completion]) -> dict[str, Any]:
        prompt = sum(len(request.prompt_ids) for request in self._requests)
        completion = sum(one.usage.completion_tokens for one in done) if self.body.max_tokens != 0 else 0
        return {
            "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": min(prompt, sum(one.usage.cached_tokens for one in done))},
        }  # fmt: skip


class _Writer:
    """One streamed choice."""

    def __init__(
        self, body: CompletionRequest, request: Request, tokenizer: Tokenizer, reader: Reader
    ) -> None:
        self._body, self._request, self._tokenizer, self.reader = body, request, tokenizer, reader
        self._log = None if body.logprobs is None else TokenLog(tokenizer, body.logprobs)
        self._rows = Reports(_hidden)
        self._begun = self.ended = False
        self.first: Delta | None = None

    async def push(self, delta: Delta, *, of_prompt: _Writer | None) -> tuple[str, dict[str, Any] | None]:
        """What it adds. `of_prompt`: who was told of the prompt, if not this one."""
        text, parts = "", []
        self.first = self.first or delta
        if not self._begun and self._body.echo:
            text += self._tokenizer.decode(self._request.prompt_ids)
            told = self.first if of_prompt is None else of_prompt.first
            if self._log is not None and told is not None and told.prompt_logprobs is not None:
                tops = told.prompt_top_logprobs or ()
                parts.append(self._log.write(self._request.prompt_ids, told.prompt_logprobs, tops))
        self._begun, self.ended = True, delta.finish_reason is not None
        text += await read(self.reader, delta.ids, last=self.ended)
        if self._log is not None:
            rows = _rows(self._log.write(delta.ids, delta.logprobs or (), delta.top_logprobs or ()))
            parts += self._rows.push(rows, fates_of(self.reader))
            ending = self._body.echo and not is_blocked(self.reader)
            if ending and delta.stop_id is not None and delta.stop_logprob is not None:
                parts.append(_ending(self._log, delta.stop_id, delta.stop_logprob))
        report = _joined(parts)
        return text, report if report["tokens"] else None


def _rows(log: Mapping[str, list[Any]]) -> list[dict[str, list[Any]]]:
    """A log of each token."""
    return [{name: [column[place]] for name, column in log.items()} for place in range(len(log["tokens"]))]


def _hidden(row: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    return {**row, "tokens": [""], "token_logprobs": [None], "top_logprobs": [None]}


def _ending(log: TokenLog, token: int, logprob: float) -> dict[str, Any]:
    """The token that ended the answer: no part of its text."""
    return {**log.write([token], [logprob], [{token: logprob}]), "tokens": [""]}


def _joined(parts: Sequence[Mapping[str, list[Any]]]) -> dict[str, Any]:
    names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    return {name: [item for part in parts for item in part[name]] for name in names}


async def _merged(generations: Sequence[Generation]) -> AsyncGenerator[tuple[int, int, Delta], None]:
    """(generation, sample, delta) of all, as they come."""
    queue: asyncio.Queue[tuple[int, int, Delta] | None] = asyncio.Queue()

    async def pump(place: int) -> None:
        try:
            async with aclosing(generations[place].deltas()) as deltas:
                async for index, delta in deltas:
                    queue.put_nowait((place, index, delta))
        finally:
            queue.put_nowait(None)

    tasks = [asyncio.create_task(pump(place)) for place in range(len(generations))]
    try:
        running = len(tasks)
        while running:
            item = await queue.get()
            if item is not None:
                yield item
                continue
            running -= 1
            for task in tasks:
                if task.done():
                    task.result()  # raises what ended it
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
