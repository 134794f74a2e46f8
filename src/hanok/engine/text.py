"""Between ids and text, above the engine: prompts from messages, and answers from ids as they come.

The engine ends a completion with the token that completes a stop string; the text is cut exactly, here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hanok.tokens.control import THINK, THINK_END, TOOL_CALL, TOOL_CALL_END
from hanok.tokens.template import Setting
from hanok.tokens.tokenizer import Tokenizer


def chat_prompt(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Any] | None = None,
    settings: Mapping[str, Setting] | None = None,
) -> list[int]:  # fmt: skip
    """Ids of a conversation up to where the assistant speaks, behind the separator that every training document has. `settings`:
    of the chat template."""
    ids = tokenizer.encode_prompt(messages, tools=tools, settings=settings)
    return ids if ids[:1] == [tokenizer.bos_id] else [tokenizer.bos_id, *ids]


def continued(tokenizer: Tokenizer, prompt_ids: Sequence[int], begun: str) -> list[int]:
    """A conversation's prompt with the beginning of the answer behind it; reasoning that the template has opened is closed."""
    closed: list[int] = []
    if opens_reasoning(tokenizer, prompt_ids):
        closed = [tokenizer.special[THINK_END], *tokenizer.encode_batch(["\n\n"], first=False)[0]]
    return [*prompt_ids, *closed, *tokenizer.encode_batch([begun], first=False)[0]]


def completion_text(tokenizer: Tokenizer, ids: Iterable[int], stop: Sequence[str] = ()) -> str:
    """Text of a completion, cut at the first stop string."""
    cutter = StopCutter(stop)
    return cutter.push(tokenizer.decode(ids)) + cutter.flush()


class StopCutter:
    """Passes text on until a stop string occurs; holds back what may be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.found: str | None = None  # the stop string that occurred

    @property
    def stopped(self) -> bool:
        return self.found is not None

    def push(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        found = [(place, stop) for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            place, self.found = min(found)
            self._held = ""
            return text[:place]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back, once no more text comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` with which `stop` begins."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-length:]):
            return length
    return 0


class AnswerStream:
    """One assistant turn: content as it comes, and each tool call once it is whole. Unstreamed answers go through it too, so
    that streaming changes nothing.

    Reasoning between `<think>` and `</think>` is kept apart, in `reasoning`. From the first tool call on, no content is
    streamed: what is left of it comes at the end.

    Args:
        exact: line ends at the beginning are part of the answer, which has a structure to keep.
        thinking: the prompt has opened the reasoning already.
        begun: the prompt has the beginning of the content already, so a space at the answer's beginning is part of it.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, stop: Sequence[str] = (), tools: bool = False, exact: bool = False,
        thinking: bool = False, begun: bool = False,
    ) -> None:  # fmt: skip
        self._tokenizer = tokenizer
        self._decoder = tokenizer.stream_decoder(first=not begun)
        self._thoughts = tokenizer.stream_decoder()
        self._cutter = StopCutter(stop)
        self._name_of = tokenizer.control_names
        self._tools, self._exact = tools, exact
        self._ids: list[int] = [tokenizer.special[THINK]] if thinking else []
        self._thinking, self._calling = thinking, False
        self._newlines = self._thought_ends = ""
        self.content, self.reasoning, self.reasoning_tokens = "", "", 0
        self.calls: list[dict[str, Any]] = []
        """Those that are whole, in OpenAI's form; their ids depend on their content alone."""

    @property
    def stopped_by(self) -> str | None:
        """The stop string that cut the answer."""
        return self._cutter.found

    def push(self, ids: Iterable[int]) -> str:
        """The content that these ids add."""
        return "".join(map(self._push, ids))

    def finish(self) -> tuple[str, list[dict[str, Any]]]:
        """The rest of the content, and the tool calls."""
        if self._calling and not self._cutter.stopped:
            content, self.calls = self._tokenizer.parse_assistant(self._ids)
            rest = content.removeprefix(self.content) if content.startswith(self.content) else ""
            self.content += rest
            return rest, self.calls
        text = self._newlines + self._cutter.push(self._decoder.flush()) + self._cutter.flush()
        self.content += text
        return text, []

    def _push(self, token: int) -> str:
        self._ids.append(token)
        name = self._name_of.get(token)
        self._calling |= self._tools and name == TOOL_CALL
        if name in (THINK, THINK_END):
            self._thinking = name == THINK
        if self._calling and name == TOOL_CALL_END and not self._cutter.stopped:
            self.calls = self._tokenizer.parse_assistant(self._ids)[1]
        if self._thinking and not self._calling and name is None:
            self._think(self._thoughts.push(token))
        if self._calling or self._thinking or name is not None:
            return ""
        text = self._newlines + self._cutter.push(self._decoder.push(token))
        if not self.content and not self._exact:
            text = text.lstrip("\n")
        shown = text.rstrip(
            "\n"
        )  # line ends wait: before a tool call they are the template's, not the answer's
        self._newlines = text[len(shown) :]
        self.content += shown
        return shown

    def _think(self, text: str) -> None:
        """Line ends around the reasoning are the template's."""
        self.reasoning_tokens += 1
        text = self._thought_ends + text
        shown = text.rstrip("\n")
        self._thought_ends = text[len(shown) :]
        self.reasoning += shown if self.reasoning else shown.lstrip("\n")


def opens_reasoning(tokenizer: Tokenizer, prompt_ids: Sequence[int]) -> bool:
    """Whether a prompt ends inside of reasoning that the answer goes on with, as some chat templates write it."""
    think = tokenizer.special.get(THINK)
    if think is None:
        return False
    last = next((token for token in reversed(prompt_ids[-8:]) if token in tokenizer.control_names), None)
    return last == think
