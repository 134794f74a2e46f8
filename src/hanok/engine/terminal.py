"""Talking to a model in a terminal, or through a pipe.

In a terminal answers appear as they come, Ctrl-C stops one, Ctrl-D ends the conversation, and lines that begin with
a slash are commands. Through a pipe every line is a turn and its answer goes to standard output, nothing else.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, TextIO

from hanok.artefacts import append_jsonl
from hanok.engine.api import Request, SamplingParams
from hanok.engine.backend import Weights
from hanok.engine.generator import LocalEngine
from hanok.engine.speculation.build import Speculation
from hanok.engine.text import AnswerStream, chat_prompt
from hanok.errors import ContextLengthError, HanokError, InputError

HELP = """\
/help           this text
/reset          forget the conversation (the system message stays)
/system TEXT    set the system message and begin anew; without TEXT, remove it
/save FILE      append the conversation to a JSONL file, as {"messages": [...]}
/quit           leave; so does Ctrl-D. Ctrl-C stops an answer."""
PROMPT = "› "
_CONTROL = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


class Conversation:
    """The messages so far, and the model that answers them."""

    def __init__(self, engine: LocalEngine, params: SamplingParams, *, system: str = "") -> None:
        self._engine, self._params = engine, params
        self.system = system
        self.turns: list[dict[str, Any]] = []

    @property
    def messages(self) -> list[dict[str, Any]]:
        opening = [{"role": "system", "content": self.system}] if self.system else []
        return [*opening, *self.turns]

    def reset(self, *, system: str | None = None) -> None:
        """Begin anew; `system` replaces the system message."""
        self.turns = []
        if system is not None:
            self.system = system

    def say(self, text: str, write: Callable[[str], object]) -> str:
        """Add a turn of the user and the model's answer, which `write` gets piece by piece. Returns the finish reason.

        Raises:
            ContextLengthError, InputError: the turn is taken back.
            KeyboardInterrupt: what was written so far stays as the answer.
        """
        self.turns.append({"role": "user", "content": text})
        answer = AnswerStream(self._engine.tokenizer)
        reason = ""
        try:
            reason = asyncio.run(self._answer(answer, write))
        finally:
            if answer.content or reason:
                self.turns.append({"role": "assistant", "content": answer.content})
            else:
                self.turns.pop()
        return reason

    async def _answer(self, answer: AnswerStream, write: Callable[[str], object]) -> str:
        prompt = chat_prompt(self._engine.tokenizer, self.messages)
        request = Request(id=f"turn-{len(self.turns)}", prompt_ids=prompt, params=self._params)
        reason = ""
        async with aclosing(self._engine.stream(request)) as deltas:  # type: ignore[type-var]
            async for delta in deltas:
                write(answer.push(delta.ids))
                reason = delta.finish_reason or reason
        write(answer.finish()[0])
        return reason


def chat_terminal(
    model_dir: Path, *, system: str = "", temperature: float = 0.0, max_tokens: int | None = None,
    weights: Weights = "auto", speculation: Speculation = "auto", draft_dir: Path | None = None,
    source: TextIO | None = None, target: TextIO | None = None,
) -> None:  # fmt: skip
    """Converse until the input ends.

    Args:
        system: the system message. temperature, max_tokens: as in `SamplingParams`.
        weights, speculation, draft_dir: as `LocalEngine` takes them.
        source, target: default: standard input and output.

    Raises:
        InputError, ContextLengthError: through a pipe, a line that cannot be answered; those before it were.
    """
    reading: TextIO = source or sys.stdin
    writing: TextIO = target or sys.stdout
    params = SamplingParams(temperature=temperature, max_tokens=max_tokens)
    engine = LocalEngine(model_dir, weights=weights, speculation=speculation, draft_dir=draft_dir)
    try:
        conversation = Conversation(engine, params, system=system)
        if reading.isatty():
            _converse(conversation, writing, name=_name(model_dir), context=engine.max_context)
        else:
            _answer_lines(conversation, reading, writing)
    finally:
        engine.close()


def _answer_lines(conversation: Conversation, source: TextIO, target: TextIO) -> None:
    for line in _lines(source):
        if line == "/quit":
            return
        if line.startswith("/"):
            _command(conversation, line, lambda text: print(text, file=sys.stderr))
            continue
        conversation.say(line, target.write)
        print(file=target, flush=True)


def _lines(source: TextIO) -> Iterator[str]:
    """Lines that hold something."""
    number = 0
    try:
        for line in source:
            number += 1
            if line.strip():
                yield line.strip()
    except UnicodeDecodeError as error:
        raise InputError(
            f"line {number + 1} of the input is not UTF-8", remedy="convert it to UTF-8"
        ) from error


def _converse(conversation: Conversation, target: TextIO, *, name: str, context: int) -> None:
    _edit_lines()
    dim, plain = ("\033[2m", "\033[0m") if target.isatty() else ("", "")

    def write(text: str) -> None:
        """Words of the model: what would steer the terminal is shown as a replacement character."""
        target.write(text.translate(_CONTROL))
        target.flush()

    def note(text: str) -> None:
        print(f"{dim}{text}{plain}", file=target, flush=True)

    note(f"{name} · context of {context:,} tokens · /help shows the commands")
    while (line := _ask(note)) is not None and line != "/quit":
        try:
            if line.startswith("/"):
                _command(conversation, line, note)
            elif line:
                _turn(conversation, line, write, note)
        except ContextLengthError as error:
            note(f"{error.message}; /reset begins anew")
        except HanokError as error:  # a mistake costs the line, not the conversation
            note(str(error))


def _turn(
    conversation: Conversation, line: str, write: Callable[[str], None], note: Callable[[str], None]
) -> None:
    try:
        reason = conversation.say(line, write)
    except KeyboardInterrupt:
        note(" [stopped]")
        return
    write("\n")
    if reason == "length":
        note("[cut at the longest answer or the end of the context]")


def _ask(note: Callable[[str], None]) -> str | None:
    """The next line; None at the end. Ctrl-C clears the line."""
    while True:
        try:
            return input(PROMPT).strip()
        except EOFError:
            note("")
            return None
        except KeyboardInterrupt:
            note("\nCtrl-D or /quit leaves")
        except UnicodeDecodeError:
            note("\nthat was not UTF-8")


def _command(conversation: Conversation, line: str, note: Callable[[str], object]) -> None:
    word, _, rest = line.partition(" ")
    rest = rest.strip()
    if word == "/help":
        note(HELP)
    elif word == "/reset":
        conversation.reset()
        note("a new conversation")
    elif word == "/system":
        conversation.reset(system=rest)
        note(
            "a new conversation with this system message"
            if rest
            else "a new conversation without system message"
        )
    elif word == "/save":
        note(_save(conversation, rest))
    else:
        raise InputError(f'no command "{word}"', remedy="/help shows them")


def _save(conversation: Conversation, name: str) -> str:
    if not name or not conversation.turns:
        raise InputError("/save needs a file name and something said", remedy="/save conversations.jsonl")
    file = Path(name).expanduser()
    try:
        append_jsonl(file, {"messages": conversation.messages})
    except OSError as error:
        raise InputError(f"cannot write {file} ({error.strerror})", remedy="choose another file") from error
    return f"saved to {file}"


def _edit_lines() -> None:
    """Arrow keys and history, where Python was built with them."""
    try:
        import readline  # noqa: F401
    except ImportError:
        return


def _name(model_dir: Path) -> str:
    path = model_dir.absolute()
    return path.parent.name if path.name == "model" else path.name
