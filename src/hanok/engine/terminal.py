"""Talking to a model in a terminal, or through a pipe.

In a terminal answers appear as they come, Ctrl-C stops one, Ctrl-D ends the conversation, and lines that begin with
a slash are commands. Through a pipe every line is a turn and its answer goes to standard output, nothing else.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, TextIO

from hanok.artefacts import append_jsonl
from hanok.engine.api import Request, SamplingParams
from hanok.engine.backend import Weights
from hanok.engine.generator import LocalEngine
from hanok.engine.parallel.team import Team
from hanok.engine.speculation.build import Speculation
from hanok.engine.text import AnswerStream, chat_prompt
from hanok.engine.thinking import Chunk, Delethink, Trace, stream_thinking
from hanok.errors import ConfigError, ContextLengthError, HanokError, InputError

HELP = """\
/help           this text
/reset          forget the conversation (the system message stays)
/system TEXT    set the system message and begin anew; without TEXT, remove it
/adapter NAME   let another adapter answer from here on; without NAME, the model itself
/save FILE      append the conversation to a JSONL file, as {"messages": [...]}
/quit           leave; so does Ctrl-D. Ctrl-C stops an answer."""
PROMPT = "› "
# Marks of our own, in the private part of Unicode: words of the model are stripped of what steers a terminal, so colours
# travel as these and become codes, or nothing, where they are written.
_COLD, _HOT, _FAINT, _PLAIN = "\uf8f0", "\uf8f1", "\uf8f2", "\uf8f3"
_MARKS = {ord(_COLD): "\033[34m", ord(_HOT): "\033[31m", ord(_FAINT): "\033[2m", ord(_PLAIN): "\033[0m"}
_UNMARKED = dict.fromkeys(_MARKS, "")
_MILD = 0.5
_CONTROL = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


Laws = tuple[tuple[float, float], ...]
Show = Callable[[str, Laws], str]


class Conversation:
    """The messages so far, and the model that answers them.

    Args:
        show: how a piece of an answer is written, with (temperature, top_p) of its tokens; None: as it is.
        adapter: that answers; None: the model itself.
        thinking: answers in chunks; `trace` then has those of the last one.
    """

    def __init__(
        self, engine: LocalEngine, params: SamplingParams, *, system: str = "", show: Show | None = None,
        thinking: Delethink | None = None, adapter: str | None = None,
    ) -> None:  # fmt: skip
        self._engine, self._params, self.show, self.adapter = engine, params, show, adapter
        self._thinking, self._chunks = thinking, list[Chunk]()
        self.system = system
        self.turns: list[dict[str, Any]] = []

    @property
    def messages(self) -> list[dict[str, Any]]:
        opening = [{"role": "system", "content": self.system}] if self.system else []
        return [*opening, *self.turns]

    @property
    def trace(self) -> Trace | None:
        return Trace(tuple(self._chunks)) if self._chunks else None

    def reset(self, *, system: str | None = None) -> None:
        """Begin anew; `system` replaces the system message."""
        self.turns = []
        if system is not None:
            self.system = system

    def let_answer(self, adapter: str | None) -> None:
        """Another adapter, or the model itself, from the next turn on. Raises InputError: it is not loaded."""
        if adapter is not None and adapter not in self._engine.adapters:
            known = ", ".join(self._engine.adapters) or "none"
            raise InputError(f'no adapter "{adapter}" is loaded', remedy=f"there are: {known}")
        self.adapter = adapter

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
        request = Request(
            id=f"turn-{len(self.turns)}", prompt_ids=prompt, params=self._params, adapter=self.adapter
        )
        reason, self._chunks = "", []
        stream = (
            self._engine.stream(request)
            if self._thinking is None
            else stream_thinking(self._engine, request, self._thinking, self._chunks)
        )
        async with aclosing(stream) as deltas:  # type: ignore[type-var]
            async for delta in deltas:
                text = answer.push(delta.ids)
                write(text if self.show is None else self.show(text, delta.decoding or ()))
                reason = delta.finish_reason or reason
                await asyncio.sleep(0)  # Ctrl-C is heard even where the model is faster than the terminal
        write(answer.finish()[0])
        return reason


def chat_terminal(
    model_dir: Path, *, system: str = "", temperature: float | None = None, max_tokens: int | None = None,
    weights: Weights = "auto", speculation: Speculation = "auto", draft_dir: Path | None = None, show_decoding: bool = False,
    temperature_scale: float = 1.0, thinking: Delethink | None = None, source: TextIO | None = None,
    target: TextIO | None = None, adapters: Mapping[str, Path] = {}, team: Team | None = None, device: str = "cpu",
) -> None:  # fmt: skip
    """Converse until the input ends.

    Args:
        system: the system message. temperature, max_tokens: as in `SamplingParams`; without a temperature the model's decoding
            heads choose, or it is 0.
        weights, speculation, draft_dir, team, device: as `LocalEngine` takes them.
        show_decoding: behind each token what the heads chose. temperature_scale: of the temperatures that they choose.
        thinking: answer in chunks, each from the question and the end of the one before.
        source, target: default: standard input and output.
        adapters: name to directory; the first of them answers.

    Raises:
        ConfigError: `show_decoding` or `temperature_scale` without heads, or with a temperature that keeps them from choosing.
        InputError, ContextLengthError: through a pipe, a line that cannot be answered; those before it were.
    """
    reading: TextIO = source or sys.stdin
    writing: TextIO = target or sys.stdout
    engine = LocalEngine(
        model_dir, weights=weights, speculation=speculation, draft_dir=draft_dir, adapters=adapters, team=team,
        device=device,
    )  # fmt: skip
    try:
        learned = engine.has_heads and temperature is None
        if show_decoding and not learned:
            raise ConfigError(
                "nothing to show: no decoding heads choose",
                remedy="take a model that has some, and no temperature",
            )
        if temperature_scale != 1.0 and not learned:
            raise ConfigError(
                f"temperature_scale = {temperature_scale} of nothing: no decoding heads choose",
                remedy="take a model that has some, and no temperature",
            )
        fixed = SamplingParams(temperature=temperature or 0.0, max_tokens=max_tokens, decoding="fixed")
        free = SamplingParams(max_tokens=max_tokens, temperature_scale=temperature_scale)
        params = free if learned else fixed
        conversation = Conversation(
            engine, params, system=system, show=with_laws if show_decoding else None, thinking=thinking,
            adapter=next(iter(adapters), None),
        )  # fmt: skip
        if reading.isatty():
            name = " · ".join([_name(model_dir), *list(adapters)[:1]])
            _converse(conversation, writing, name=name, context=engine.max_context)
        else:
            _answer_lines(conversation, reading, writing)
    finally:
        engine.close()


def with_laws(text: str, laws: Laws) -> str:
    """The text with its tokens' temperature and top-p behind it; cold ones in blue, hot ones in red, where colours show."""
    text = text.translate(_UNMARKED)
    numbers = "".join(f"⟨{temperature:.2f} {top_p:.2f}⟩" for temperature, top_p in laws)
    heat = max((temperature for temperature, _ in laws), default=_MILD)
    mark = _COLD if heat < _MILD else _HOT if heat > 1.0 else ""
    return f"{mark}{text}{_PLAIN if mark else ''}{_FAINT}{numbers}{_PLAIN}" if numbers else text


def _answer_lines(conversation: Conversation, source: TextIO, target: TextIO) -> None:
    colours = {} if conversation.show is None else _UNMARKED
    for line in _lines(source):
        if line == "/quit":
            return
        if line.startswith("/"):
            _command(conversation, line, lambda text: print(text, file=sys.stderr))
            continue
        conversation.say(line, lambda text: target.write(text.translate(colours)))
        print(file=target, flush=True)
        if (trace := conversation.trace) is not None:
            print(_about(trace), file=sys.stderr)


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
    colours = {} if conversation.show is None else _MARKS if target.isatty() else _UNMARKED

    def write(text: str) -> None:
        """Words of the model: what would steer the terminal is shown as a replacement character."""
        target.write(text.translate(_CONTROL).translate(colours))
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
    if (trace := conversation.trace) is not None:
        note(_about(trace))


def _about(trace: Trace) -> str:
    chunks, tokens = len(trace.chunks), sum(len(chunk.drawn_ids) for chunk in trace.chunks)
    return f"[{chunks} chunk{'s' * (chunks > 1)}, {tokens} tokens, at most {trace.peak_context} held at once]"


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
    elif word == "/adapter":
        conversation.let_answer(rest or None)
        note(f'the adapter "{rest}" answers' if rest else "the model itself answers")
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
