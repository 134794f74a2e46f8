"""A response as it grows: pieces of an answer to output items, and to the typed events that tell of them.

Whoever wants no stream takes `body` at the end; both see the same items in the same order.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from hanok.engine.api import Usage
from hanok.server.asking import Piece, Reason, approval
from hanok.server.generation import BLOCKED
from hanok.server.response_schema import ResponseRequest

Event = dict[str, Any]
_STATUS: Mapping[Reason, str] = {
    "stop": "completed", "length": "incomplete", BLOCKED: "incomplete", "cancelled": "cancelled"
}  # fmt: skip


class ResponseWriter:
    """`begin`, then `push` for each piece, then `end` (or `fail`)."""

    def __init__(self, response_id: str, body: ResponseRequest, *, model: str) -> None:
        self._open: dict[str, Any] | None = None
        self._number = 0
        self.body: dict[str, Any] = {
            "id": response_id, "object": "response", "created_at": int(time.time()),
            "status": "queued" if body.background else "in_progress", "background": bool(body.background),
            "error": None, "incomplete_details": None, "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens, "max_tool_calls": None, "model": model, "output": [],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id, "reasoning": {"effort": None, "summary": None},
            "service_tier": "default", "store": body.store is not False,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "text": {"format": body.text.format.model_dump(by_alias=True, exclude_none=True)
                     if body.text.format.type == "json_schema" else {"type": body.text.format.type}},
            "tool_choice": body.tool_choice if isinstance(body.tool_choice, str) else body.tool_choice.model_dump(),
            "tools": [{"parameters": None, "strict": None, **tool.model_dump(exclude_none=True)} for tool in body.tools],
            "top_p": 1.0 if body.top_p is None else body.top_p, "truncation": "disabled", "usage": None,
            "user": body.user, "metadata": body.metadata or {},
        }  # fmt: skip

    def begin(self) -> Iterator[Event]:
        yield self._of_response("response.created")
        yield self._of_response("response.in_progress")

    def push(self, piece: Piece) -> Iterator[Event]:
        self.body["status"] = "in_progress"
        if piece.kind == "call":
            yield from self._finish_item("completed")
            yield from self._call(piece.call)
            return
        kind = "message" if piece.kind == "text" else "reasoning"
        if self._open is None or self._open["type"] != kind:
            yield from self._finish_item("completed")
            yield from self._start(kind)
        assert self._open is not None
        self._open["content"][0]["text"] += piece.text
        event = "output_text" if kind == "message" else "reasoning_text"
        yield self._of_part(f"response.{event}.delta", delta=piece.text, **self._logprobs(kind))

    def end(self, reason: Reason, usage: Usage, *, reasoning_tokens: int) -> Iterator[Event]:
        status = _STATUS.get(reason, "failed")
        if not any(item["type"] in ("message", "function_call") for item in self.body["output"]):
            yield from self._finish_item("completed")
            yield from self._start("message")
        yield from self._finish_item("completed" if status == "completed" else "incomplete")
        if status == "incomplete":
            self.body["incomplete_details"] = {"reason": reason if reason == BLOCKED else "max_output_tokens"}
        if status == "completed":
            self.body["completed_at"] = int(time.time())
        prompt, written = usage.prompt_tokens, usage.completion_tokens
        self.body["status"] = status
        self.body["usage"] = {
            "input_tokens": prompt, "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": written, "output_tokens_details": {"reasoning_tokens": reasoning_tokens},
            "total_tokens": prompt + written,
        }  # fmt: skip
        yield self._of_response(f"response.{'incomplete' if status == 'cancelled' else status}")

    def fail(self, error: Mapping[str, Any]) -> Iterator[Event]:
        self.body["status"] = "failed"
        code = "server_error" if error["type"] == "server_error" else "invalid_prompt"
        self.body["error"] = {"code": code, "message": error["message"]}
        yield self._of_response("response.failed")

    def _start(self, kind: str) -> Iterator[Event]:
        if kind == "message":
            part: dict[str, Any] = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            item = {"id": f"msg_{uuid.uuid4().hex}", "type": "message", "role": "assistant"}
        else:
            part = {"type": "reasoning_text", "text": ""}
            item = {"id": f"rs_{uuid.uuid4().hex}", "type": "reasoning", "summary": []}
        self._open = {**item, "status": "in_progress", "content": []}
        self.body["output"].append(self._open)
        yield self._of_item("response.output_item.added")
        self._open["content"].append(part)
        yield self._of_part("response.content_part.added", part=dict(part))

    def _finish_item(self, status: str) -> Iterator[Event]:
        item = self._open
        if item is None:
            return
        part, kind = item["content"][0], item["type"]
        event = "output_text" if kind == "message" else "reasoning_text"
        yield self._of_part(f"response.{event}.done", text=part["text"], **self._logprobs(kind))
        yield self._of_part("response.content_part.done", part=dict(part))
        item["status"] = status
        yield self._of_item("response.output_item.done")
        self._open = None

    def _call(self, call: Mapping[str, Any]) -> Iterator[Event]:
        function = call["function"]
        item: dict[str, Any] = {
            "id": f"fc_{uuid.uuid4().hex}", "type": "function_call", "call_id": call["id"], "name": function["name"],
            "arguments": "", "status": "in_progress", **approval(call),
        }  # fmt: skip
        self.body["output"].append(item)
        yield self._of_item("response.output_item.added")
        where = {"item_id": item["id"], "output_index": len(self.body["output"]) - 1}
        event = "response.function_call_arguments"
        yield self._event(f"{event}.delta", **where, delta=function["arguments"])
        item["arguments"], item["status"] = function["arguments"], "completed"
        yield self._event(f"{event}.done", **where, name=function["name"], arguments=function["arguments"])
        yield self._of_item("response.output_item.done")

    @staticmethod
    def _logprobs(kind: str) -> dict[str, Any]:
        return {"logprobs": []} if kind == "message" else {}

    def _of_part(self, kind: str, **fields: Any) -> Event:
        assert self._open is not None
        place = len(self.body["output"]) - 1
        return self._event(kind, item_id=self._open["id"], output_index=place, content_index=0, **fields)

    def _of_item(self, kind: str) -> Event:
        place = len(self.body["output"]) - 1
        return self._event(kind, output_index=place, item=_copy(self.body["output"][place]))

    def _of_response(self, kind: str) -> Event:
        return self._event(
            kind, response={**self.body, "output": [_copy(item) for item in self.body["output"]]}
        )

    def _event(self, kind: str, **fields: Any) -> Event:
        number, self._number = self._number, self._number + 1
        return {"type": kind, "sequence_number": number, **fields}


def _copy(item: Mapping[str, Any]) -> dict[str, Any]:
    """As it is now: an event that waits to be sent tells of its own moment."""
    copied = dict(item)
    if "content" in copied:
        copied["content"] = [dict(part) for part in copied["content"]]
    return copied
