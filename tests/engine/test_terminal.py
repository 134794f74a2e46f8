"""Conversations through a pipe and in a real pseudo-terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hanok.engine.api import Request, SamplingParams
from hanok.engine.generator import LocalEngine
from hanok.engine.terminal import chat_terminal
from hanok.engine.text import AnswerStream, chat_prompt
from hanok.errors import ContextLengthError, InputError
from hanok.models.checkpoint import load_model

TOKENS = 12


def expected(engine: LocalEngine, *users: str, system: str = "", adapter: str | None = None) -> list[str]:
    """Greedy answers to the turns of one conversation, from whole completions."""
    messages = [{"role": "system", "content": system}] if system else []
    answers = []
    for user in users:
        messages.append({"role": "user", "content": user})
        params = SamplingParams(temperature=0.0, max_tokens=TOKENS)
        prompt = chat_prompt(engine.tokenizer, messages)
        (done,) = engine.generate([Request(id="x", prompt_ids=prompt, params=params, adapter=adapter)])
        stream = AnswerStream(engine.tokenizer)
        stream.push(done.ids)
        stream.finish()
        messages.append({"role": "assistant", "content": stream.content})
        answers.append(stream.content)
    return answers


def piped(model_dir: Path, text: str, *, system: str = "") -> str:
    target = io.StringIO()
    chat_terminal(model_dir, system=system, max_tokens=TOKENS, source=io.StringIO(text), target=target)
    return target.getvalue()


def test_one_line_in_one_answer_out_and_the_turns_go_on(model_dir: Path, engine: LocalEngine) -> None:
    first, second = expected(engine, "hi", "안녕?")
    assert [second] != expected(engine, "안녕?")  # so the first turn matters
    assert piped(model_dir, "hi\n\n  안녕?  ") == f"{first}\n{second}\n"


def test_reset_and_system(model_dir: Path, engine: LocalEngine) -> None:
    (plain,) = expected(engine, "hi")
    (ruled,) = expected(engine, "hi", system="Be kind.")
    assert plain != ruled
    assert piped(model_dir, "hi\n/reset\nhi\n/system Be kind.\nhi\n/reset\nhi\n/system\nhi\n/quit\nhi\n") == (
        f"{plain}\n{plain}\n{ruled}\n{ruled}\n{plain}\n"
    )
    assert piped(model_dir, "hi", system="Be kind.") == f"{ruled}\n"


def test_adapters_answer_in_turn(model_dir: Path, engine: LocalEngine, adapted, tmp_path: Path) -> None:
    model = load_model(model_dir)
    folders = {name: adapted.random_adapter(model, tmp_path / name, seed=n) for n, name in enumerate("ab")}
    target, adapting = io.StringIO(), LocalEngine(model_dir, adapters=folders)
    answers = [expected(adapting, "hi", adapter=name)[0] for name in ("a", "b", None)]
    assert len(set(answers)) == 3
    text = "hi\n/reset\n/adapter b\nhi\n/reset\n/adapter\nhi\n"
    chat_terminal(model_dir, max_tokens=TOKENS, source=io.StringIO(text), target=target, adapters=folders)
    assert target.getvalue() == "".join(f"{answer}\n" for answer in answers)
    with pytest.raises(InputError, match='no adapter "c" is loaded; there are: a, b'):
        chat_terminal(model_dir, source=io.StringIO("/adapter c"), target=target, adapters=folders)


def test_save_appends_conversations(model_dir: Path, engine: LocalEngine, tmp_path: Path) -> None:
    file = tmp_path / "said.jsonl"
    piped(model_dir, f"a\n/save {file}\n/reset\nb\n/save {file}\n")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [[m["content"] for m in row["messages"]] for row in rows] == [
        ["a", *expected(engine, "a")], ["b", *expected(engine, "b")],
    ]  # fmt: skip
    with pytest.raises(InputError, match="something said"):
        piped(model_dir, f"/save {file}\n")
    with pytest.raises(InputError, match="cannot write"):
        piped(model_dir, f"a\n/save {tmp_path}\n")


def test_mistakes_end_a_pipe(model_dir: Path) -> None:
    with pytest.raises(InputError, match='no command "/rest"'):
        piped(model_dir, "/rest\n")
    with pytest.raises(ContextLengthError, match="2048 tokens"):
        piped(model_dir, "x" * 3000)
    source = io.TextIOWrapper(io.BytesIO("가\n".encode("cp949")), encoding="utf-8")
    with pytest.raises(InputError, match="line 1 of the input is not UTF-8"):
        chat_terminal(model_dir, source=source, target=io.StringIO())


# ---- a real terminal ------------------------------------------------------------------------------------------


class Terminal:
    """A child under a pseudo-terminal; `expect` reads until a text appears."""

    def __init__(self, model_dir: Path) -> None:
        code = (
            "import sys; from pathlib import Path; from hanok.engine.terminal import chat_terminal;"
            "chat_terminal(Path(sys.argv[1]), weights='float32')"  # slow enough to be stopped
        )
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, str(model_dir)], stdin=slave, stdout=slave, stderr=slave,
            start_new_session=True, preexec_fn=_take_terminal,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TERM": "dumb", "PYTHONUTF8": "1"},
        )  # fmt: skip
        os.close(slave)
        self.seen = b""

    def send(self, text: str) -> None:
        time.sleep(0.2)  # between printing its prompt and listening, readline loses signals
        os.write(self._master, text.encode())

    def expect(self, found: Callable[[bytes], bool], *, seconds: float = 30.0) -> bytes:
        """What came until `found` holds of it."""
        end = time.monotonic() + seconds
        part = b""
        while not found(part):
            assert time.monotonic() < end, f"not in {part!r}"
            if select.select([self._master], [], [], 0.1)[0]:
                try:
                    part += os.read(self._master, 65536)
                except OSError:  # the child has closed its side
                    assert found(part), f"ended with {part!r}"
        return part

    def interrupt(self, found: Callable[[bytes], bool]) -> bytes:
        """Ctrl-C, once more where nothing came of it: Python drops one that comes while it throws something away."""
        for last in (False, False, True):
            self.send("\x03")
            try:
                return self.expect(found, seconds=30.0 if last else 3.0)
            except AssertionError:
                if last:
                    raise
        raise AssertionError("unreachable")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


def _take_terminal() -> None:
    import fcntl
    import termios

    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # as a shell leaves it to what it starts, unlike who runs the tests
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def terminal(model_dir: Path) -> Iterator[Terminal]:
    opened = Terminal(model_dir)
    yield opened
    opened.close()


def test_a_conversation_in_a_terminal(terminal: Terminal, engine: LocalEngine) -> None:
    prompt = chat_prompt(engine.tokenizer, [{"role": "user", "content": "x"}])
    params = SamplingParams(temperature=0.0)
    (whole,) = engine.generate([Request(id="x", prompt_ids=prompt, params=params)])
    assert len(whole.ids) > 1000, "the random model must have much to say for this test"

    waiting = "› ".encode()
    assert b"/help shows the commands" in terminal.expect(lambda seen: waiting in seen)
    terminal.send("/help\n")
    assert b"/system TEXT" in terminal.expect(lambda seen: waiting in seen)
    terminal.send("x\n")
    terminal.expect(lambda seen: len(seen) > 40)
    stopped = terminal.interrupt(lambda seen: waiting in seen)
    assert b"[stopped]" in stopped
    assert b"\0" not in stopped  # the model's control characters stay out of the terminal
    terminal.send("\x03")
    assert b"leaves" in terminal.expect(lambda seen: waiting in seen)
    terminal.send("y" * 3000 + "\n")
    assert b"/reset begins anew" in terminal.expect(lambda seen: waiting in seen)
    terminal.send("\x04")
    assert terminal.process.wait(timeout=10) == 0
