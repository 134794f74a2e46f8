"""A server in this process whose model says what the test wrote, cut where the test wants it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from scripted import Script

from hanok.engine.generator import LocalEngine
from hanok.guard import policy
from hanok.guard.policy import parse_policy
from hanok.guard.rulebook import Guard
from hanok.guard.verdicts import VerdictEvent
from hanok.server.app import create_app, services_of
from hanok.server.services import Services
from hanok.store.database import Store
from hanok.tokens.tokenizer import Tokenizer

TOOLS = [{"type": "function", "function": {"name": "save", "parameters": {"type": "object"}}}]


@dataclass
class Scripted:
    client: httpx.AsyncClient
    loop: asyncio.AbstractEventLoop
    services: Services
    script: Script
    events: list[VerdictEvent] = field(default_factory=list)

    def says(self, *pieces: str | bytes, control: bool = False) -> None:
        self.script.says(*pieces, control=control)
        self.events.clear()

    @property
    def asked(self) -> list[str]:
        return self.script.asked

    @property
    def said(self) -> int:
        return self.script.said

    @property
    def tokenizer(self) -> Tokenizer:
        return self.script.tokenizer

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return self.loop.run_until_complete(self.client.post(path, json={"model": "m", **body}))

    def get(self, path: str) -> httpx.Response:
        return self.loop.run_until_complete(self.client.get(path))


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
        server = Scripted(client, loop, services, Script(scripted_engine.tokenizer))
        services.verdicts.append(server.events.append)
        monkeypatch.setattr(scripted_engine, "follow", server.script.follow)
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
