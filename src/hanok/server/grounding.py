"""Chat completions that answer from documents: passages into the question, and "I don't know" without asking the model."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

from fastapi.responses import JSONResponse, Response

from hanok.documents.answers import Grounded, ground, question_of
from hanok.documents.records import Results
from hanok.documents.support import LEAST
from hanok.engine.text import chat_prompt
from hanok.server.document_schema import ChatDocuments
from hanok.server.exchange import Exchange
from hanok.server.models import Served
from hanok.server.principal import Principal
from hanok.server.schema import ChatRequest
from hanok.server.services import Services
from hanok.server.streams import EventStream
from hanok.server.work import admitted

_ANSWER_TOKENS = 256  # kept free for the answer where the request does not say how many


async def grounded_in(
    services: Services, body: ChatRequest, asked: ChatDocuments, principal: Principal
) -> tuple[ChatRequest, Grounded]:
    """The request with passages in it, as many of the best as fit into the model's context, and what is known of them.

    Raises:
        NotFoundError: a vector store is unknown or another tenant's.
        InputError: the last message of the user says nothing that could be searched for.
    """
    services.models.find(body.model, principal)  # an unknown one is told at once
    messages = body.plain_messages()
    # before the model is taken: vectors may come from another, which may have to wait for this one's room
    results = await asyncio.to_thread(
        services.documents.search, principal.tenant, asked.vector_store_ids, question_of(messages),
        limit=asked.max_num_results, filters=asked.filters,
    )  # fmt: skip
    async with services.models.use(body.model, principal) as served:
        return await asyncio.to_thread(_grounded_in, body, asked, messages, results, served)


def _grounded_in(
    body: ChatRequest, asked: ChatDocuments, messages: list[dict[str, Any]], results: Results, served: Served
) -> tuple[ChatRequest, Grounded]:
    least = LEAST if asked.least_support is None else asked.least_support
    grounded = ground(messages, results, least=least)
    while grounded.refusal is None and len(grounded.passages) > 1 and not _fits(grounded, body, served):
        fewer = Results(results.hits[: len(grounded.passages) - 1], results.support)
        grounded = ground(messages, fewer, least=least)
    if body.structure_field:  # a sentence of ours would not be what the answer must be
        grounded = replace(grounded, refusal=None)
    told = [
        message.model_copy(update={"content": changed["content"]}) if changed["content"] != plain["content"] else message
        for message, plain, changed in zip(body.messages, messages, grounded.messages, strict=True)
    ]  # fmt: skip
    return body.model_copy(update={"messages": told}), grounded


def _fits(grounded: Grounded, body: ChatRequest, served: Served) -> bool:
    engine = served.engine
    settings = body.template_settings(engine.tokenizer)
    prompt = chat_prompt(engine.tokenizer, grounded.messages, tools=body.plain_tools(), settings=settings)
    answer = min(body.max_completion_tokens or body.max_tokens or _ANSWER_TOKENS, engine.max_context // 2)
    return len(prompt) + answer <= engine.max_context


def about(grounded: Grounded, removed: int = 0) -> dict[str, Any]:
    """What an answer says of its documents, beside its annotations. `removed_citations`: numbers that no passage had."""
    return {
        "support": round(grounded.support, 4), "passages": len(grounded.passages), "removed_citations": removed,
        "answered": grounded.refusal is None,
    }  # fmt: skip


async def refuse(services: Services, body: ChatRequest, principal: Principal, grounded: Grounded) -> Response:
    """Say that the documents hold no answer, streamed or not.

    It counts as a request, but as no tokens, and is not kept for feedback: no model said it.
    """
    served = services.models.find(body.model, principal)
    exchange = Exchange(
        id=f"chatcmpl-{uuid.uuid4().hex}", route="chat", principal=principal, model=served.name, model_hash=served.hash,
        prompt_tokens=0, max_tokens=0, streamed=body.stream,
    )  # fmt: skip
    async with admitted(services, exchange):
        pass
    head = {"id": exchange.id, "created": int(time.time()), "model": served.name}
    if body.stream:
        return EventStream(_events(body, grounded, head), _nothing)
    message = {"role": "assistant", "content": grounded.refusal, "refusal": None, "annotations": []}
    choices = [
        {"index": index, "message": message, "finish_reason": "stop", "logprobs": None}
        for index in range(body.n or 1)
    ]
    return JSONResponse(
        {
            **head,
            "object": "chat.completion",
            "choices": choices,
            "usage": _NO_TOKENS,
            "documents": about(grounded),
        }
    )


async def _events(body: ChatRequest, grounded: Grounded, head: dict[str, Any]) -> AsyncGenerator[str, None]:
    head = {**head, "object": "chat.completion.chunk"}
    for index in range(body.n or 1):
        for delta, reason in (
            ({"role": "assistant", "content": ""}, None), ({"content": grounded.refusal}, None), ({"annotations": []}, "stop")
        ):  # fmt: skip
            choice = {"index": index, "delta": delta, "finish_reason": reason, "logprobs": None}
            more = {"documents": about(grounded)} if reason else {}
            yield json.dumps({**head, "choices": [choice], **more}, ensure_ascii=False)
    if body.stream_options is not None and body.stream_options.include_usage:
        yield json.dumps({**head, "choices": [], "usage": _NO_TOKENS})
    yield "[DONE]"


async def _nothing() -> None:
    pass


_NO_TOKENS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
