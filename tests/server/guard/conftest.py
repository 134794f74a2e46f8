"""A server in this process whose model says what the test wrote, cut where the test wants it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from hanok.engine.api import Delta, Request, Usage
from hanok.engine.generator import LocalEngine
from hanok.guard import policy
from hanok.guard.policy import parse_policy
from hanok.guard.rulebook import Guard
from hanok.guard.verdicts import VerdictEvent
from hanok.server.app import create_app, services_of
from hanok.server.services import Services
from hanok.store.database import Store
from hanok.tokens.tokenizer import Tokenizer

CONTROL = {"<think>", "</think>", "<tool_call>", "</tool_call>"}
TOOLS = [{"type": "function", "function": {"name": "save", "parameters": {"type": "object"}}}]


@dataclass
class Scripted:
    """Args: pieces: what the model says, a delta each. asked: prompts that it was given, as text."""

    client: httpx.AsyncClient
    loop: asyncio.AbstractEventLoop
    services: Services
    tokenizer: Tokenizer
    pieces: list[list[int]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    events: list[VerdictEvent] = field(default_factory=list)
    said: int = 0

    def says(self, *pieces: str | bytes, control: bool = False) -> None:
        """One token a byte; with `control`, pieces named like control tokens are those."""
        self.pieces = [self._ids(piece, control) for piece in pieces if piece]
        self.events.clear()
        self.asked.clear()

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return self.loop.run_until_complete(self.client.post(path, json={"model": "m", **body}))

    def get(self, path: str) -> httpx.Response:
        return self.loop.run_until_complete(self.client.get(path))

    def _ids(self, piece: str | bytes, control: bool) -> list[int]:
        if control and piece in CONTROL:
            return [self.tokenizer.special[str(piece)]]
        raw = piece if isinstance(piece, bytes) else piece.encode()
        return [self._of_byte[byte] for byte in raw]

    @property
    def _of_byte(self) -> dict[int, int]:
        if not hasattr(self, "_bytes"):
            pieces = {n: self.tokenizer.token_bytes(n) for n in range(self.tokenizer.vocab_size)}
            self._bytes = {raw[0]: n for n, raw in pieces.items() if len(raw) == 1}
        return self._bytes

    async def stream(self, request: Request) -> AsyncIterator[Delta]:
        self.asked.append(self.tokenizer.decode(request.prompt_ids))
        wants, total = request.params.logprobs is not None, 0
        alternative = self._of_byte[ord("z")]
        for place, ids in enumerate(self.pieces):
            await asyncio.sleep(0)
            total += len(ids)
            self.said = total
            last = place == len(self.pieces) - 1
            usage = Usage(prompt_tokens=len(request.prompt_ids), completion_tokens=total)
            yield Delta(
                ids=tuple(ids), logprobs=tuple(-0.5 for _ in ids) if wants else None,
                top_logprobs=tuple({alternative: -1.0, one: -0.5} for one in ids) if wants else None,
                finish_reason="stop" if last else None, usage=usage if last else None,
            )  # fmt: skip


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stands still for a moment makes no rule fail here: what a budget does is tested where rules are."""
    monkeypatch.setattr(policy, "BUDGET_MS", 10_000)


@pytest.fixture(scope="session")
def scripted_engine(random_run: Path) -> Iterator[LocalEngine]:
    engine = LocalEngine(random_run / "model")
    yield engine
    engine.close()


@pytest.fixture
def scripted(
    scripted_engine: LocalEngine, random_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str | Guard], Scripted]]:
    """Makes a server under a policy, given as TOML or made already."""
    loop = asyncio.new_event_loop()
    opened: list[tuple[httpx.AsyncClient, Store]] = []

    def start(rules: str | Guard) -> Scripted:
        store = Store(tmp_path / f"{len(opened)}.db")
        guard = rules if isinstance(rules, Guard) else Guard(parse_policy(rules, folder=tmp_path))
        services = services_of(scripted_engine, random_run / "model", store, name="m", guard=guard)
        transport = httpx.ASGITransport(app=create_app(services), client=("127.0.0.1", 1))
        client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")
        opened.append((client, store))
        server = Scripted(client, loop, services, scripted_engine.tokenizer)
        services.verdicts.append(server.events.append)
        monkeypatch.setattr(scripted_engine, "stream", server.stream)
        return server

    yield start
    for client, store in opened:
        loop.run_until_complete(client.aclose())
        store.close()
    left = asyncio.all_tasks(loop)  # of the event streams, which look for the server's end
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.wait(left))
    loop.close()


@pytest.fixture(scope="session")
def told() -> Any:
    """What an answer tells in each channel: text, reasoning, arguments, tokens; and why it ended."""
    return _told


def _told(route: str, response: httpx.Response, *, stream: bool) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    read = {"chat": _chat, "completions": _completion, "responses": _response, "messages": _message}[route]
    if not stream:
        return read([response.json()], False)
    lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    return read([json.loads(line) for line in lines if line != "[DONE]"], True)


def _blank() -> dict[str, Any]:
    return {"text": "", "reasoning": "", "arguments": "", "tokens": "", "alternatives": "", "reason": None}


def _chat(objects: list[dict[str, Any]], stream: bool) -> dict[str, Any]:
    found = _blank()
    for choice in (choice for one in objects for choice in one["choices"]):
        message = choice["delta" if stream else "message"]
        found["text"] += message.get("content") or ""
        found["reasoning"] += message.get("reasoning_content") or ""
        for call in message.get("tool_calls") or ():
            found["arguments"] += call["function"].get("name") or ""
            found["arguments"] += call["function"].get("arguments") or ""
        for token in (choice.get("logprobs") or {}).get("content") or ():
            found["tokens"] += bytes(token["bytes"]).decode("latin-1")
            found["alternatives"] += "".join(top["token"] for top in token["top_logprobs"])
        found["reason"] = choice["finish_reason"] or found["reason"]
    return found


def _completion(objects: list[dict[str, Any]], stream: bool) -> dict[str, Any]:
    found = _blank()
    for choice in (choice for one in objects for choice in one["choices"]):
        found["text"] += choice["text"]
        logs = choice["logprobs"] or {"tokens": [], "top_logprobs": []}
        found["tokens"] += "".join(logs["tokens"])
        found["alternatives"] += "".join("".join(top) for top in logs["top_logprobs"] if top)
        found["reason"] = choice["finish_reason"] or found["reason"]
    return found


def _response(objects: list[dict[str, Any]], stream: bool) -> dict[str, Any]:
    found = _blank()
    body = objects[-1]["response"] if stream else objects[0]
    for item in body["output"]:
        if item["type"] == "function_call":
            found["arguments"] += item["name"] + item["arguments"]
        else:
            kind = "text" if item["type"] == "message" else "reasoning"
            found[kind] += "".join(part["text"] for part in item["content"])
    if stream:
        deltas = {"response.output_text.delta": "text", "response.reasoning_text.delta": "reasoning"}
        for kind, channel in deltas.items():
            assert "".join(one["delta"] for one in objects if one["type"] == kind) == found[channel]
    found["reason"] = (body["incomplete_details"] or {}).get("reason") or body["status"]
    return found


def _message(objects: list[dict[str, Any]], stream: bool) -> dict[str, Any]:
    found = _blank()
    if not stream:
        for block in objects[0]["content"]:
            found["text"] += block.get("text", "")
            found["reasoning"] += block.get("thinking", "")
            if block["type"] == "tool_use":
                found["arguments"] += block["name"] + json.dumps(block["input"], ensure_ascii=False)
        return {**found, "reason": objects[0]["stop_reason"]}
    for one in objects:
        delta = one.get("delta", {})
        found["text"] += delta.get("text", "")
        found["reasoning"] += delta.get("thinking", "")
        found["arguments"] += one.get("content_block", {}).get("name", "") + delta.get("partial_json", "")
        found["reason"] = delta.get("stop_reason") or found["reason"]
    return found


@pytest.fixture(scope="session")
def body_of() -> Any:
    """The path and body of a request on each route."""
    return _body_of


def _body_of(
    route: str, *, stream: bool, tools: bool = False, content: str = "hi", **more: Any
) -> tuple[str, dict[str, Any]]:
    messages = [{"role": "user", "content": content}]
    if route == "chat":
        return "/v1/chat/completions", {
            "messages": messages,
            "stream": stream,
            **({"tools": TOOLS} if tools else {}),
            **more,
        }
    if route == "completions":
        return "/v1/completions", {"prompt": content, "stream": stream, **more}
    if route == "responses":
        flat = [{"type": "function", **tool["function"]} for tool in TOOLS]
        return "/v1/responses", {
            "input": content,
            "stream": stream,
            **({"tools": flat} if tools else {}),
            **more,
        }
    named = [{"name": "save", "input_schema": {"type": "object"}}]
    thinking = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
    body = {
        "messages": messages,
        "max_tokens": 2000,
        "stream": stream,
        **thinking,
        **({"tools": named} if tools else {}),
    }
    return "/v1/messages", {**body, **more}
