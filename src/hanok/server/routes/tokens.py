"""POST /tokenize and /detokenize (vLLM's shape), also under /v1."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, model_validator

from hanok.engine.text import chat_prompt
from hanok.errors import InputError
from hanok.server.identity.roles import needs
from hanok.server.models import Served
from hanok.server.principal import principal_of
from hanok.server.prompts import TokenId, encode_text
from hanok.server.schema import ChatMessage, Tool
from hanok.server.services import Services
from hanok.server.template_settings import TemplateFields


class TokenizeRequest(TemplateFields):
    """A text, or the messages of a chat up to where the assistant speaks."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    tools: list[Tool] | None = None
    add_special_tokens: bool = True
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _one_of_both(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self


class TokenizeAnswer(BaseModel):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(BaseModel):
    model: str | None = None
    tokens: list[TokenId]


class DetokenizeAnswer(BaseModel):
    prompt: str


def router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["tokens"])

    @needs("models:read")
    async def tokenize(body: TokenizeRequest, request: Request) -> TokenizeAnswer:
        """How a model reads a text."""
        name = body.model or services.models.default_name
        async with services.models.use(name, principal_of(request)) as served:
            ids = await asyncio.to_thread(_ids, served, body)
            texts = await asyncio.to_thread(_texts, served, ids) if body.return_token_strs else None
            return TokenizeAnswer(
                count=len(ids), max_model_len=served.engine.max_context, tokens=ids,
                token_strs=texts,
            )  # fmt: skip

    @needs("models:read")
    async def detokenize(body: DetokenizeRequest, request: Request) -> DetokenizeAnswer:
        """And back: control tokens by their names."""
        name = body.model or services.models.default_name
        async with services.models.use(name, principal_of(request)) as served:
            tokenizer = served.engine.tokenizer
            if body.tokens and max(body.tokens) >= tokenizer.vocab_size:
                raise InputError(
                    f"token {max(body.tokens)}", remedy=f"ids go up to {tokenizer.vocab_size - 1}"
                )
            return DetokenizeAnswer(
                prompt=await asyncio.to_thread(tokenizer.decode, body.tokens, skip_special=False)
            )

    @needs("models:read")
    async def tokenizer_info(request: Request) -> dict[str, Any]:
        """What lm-eval asks for where it has the server tokenise."""
        async with services.models.use(services.models.default_name, principal_of(request)) as served:
            tokenizer = served.engine.tokenizer
            names = {number: name for name, number in tokenizer.special.items()}
            roles = {
                "bos_token": tokenizer.bos_id,
                "eos_token": tokenizer.eos_id,
                "pad_token": tokenizer.pad_id,
            }
            return {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "model_max_length": served.engine.max_context,
                **{role: names.get(number) for role, number in roles.items()},
            }

    for prefix in ("", "/v1"):
        routes.add_api_route(
            f"{prefix}/tokenize", tokenize, methods=["POST"], response_model_exclude_none=True
        )
        routes.add_api_route(f"{prefix}/detokenize", detokenize, methods=["POST"])
        routes.add_api_route(f"{prefix}/tokenizer_info", tokenizer_info, methods=["GET"])
    return routes


def _ids(served: Served, body: TokenizeRequest) -> list[int]:
    tokenizer = served.engine.tokenizer
    if body.messages is not None:
        tools = [tool.model_dump() for tool in body.tools or ()] or None
        messages = [message.plain() for message in body.messages]
        return chat_prompt(tokenizer, messages, tools=tools, settings=body.template_settings(tokenizer))
    if not body.prompt:
        return [tokenizer.bos_id] if body.add_special_tokens else []
    return encode_text(tokenizer, body.prompt, special=body.add_special_tokens)


def _texts(served: Served, ids: list[int]) -> list[str]:
    return [served.engine.tokenizer.decode([one], skip_special=False) for one in ids]
