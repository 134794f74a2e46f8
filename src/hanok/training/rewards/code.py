"""Rewards for programs: the last Python block of a completion, run against tests in the sandbox.

Statements run behind the program, in its interpreter: a word drawn for each run must be printed after the last test, so a
plain early exit does not pass, but a program that goes for it can read that word or replace what the tests call. For a
policy that learns to please its reward use tests with input and output: they run the program once each, and it never sees
what it should print. A program that runs out of time fails that test and all behind it.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from hanok.errors import ConfigError
from hanok.sandbox import Limits, run_code
from hanok.training.rewards.answers import after_reasoning
from hanok.training.rewards.base import Columns, Prompt, RewardFunction

_BLOCK = re.compile(r"```(?:python|py)?[^\S\n]*\n(.*?)```", re.DOTALL)


def code_tests(
    column: str = "tests", *, limits: Limits | None = None, allow_unisolated: bool = False
) -> RewardFunction:
    """Share of a row's tests that the program passes; 0 without a program, None for a row without tests.

    The column holds either Python statements, all of which must pass, or a list of {"stdin", "stdout"}.
    """
    limits = limits or Limits(seconds=10.0, cpu_seconds=5)

    async def reward(prompt: Prompt, completion: str, columns: Columns) -> float | None:
        tests = columns.get(column)
        if not tests:
            return None
        program = last_program(completion)
        if program is None:
            return 0.0
        if isinstance(tests, str):
            return await asyncio.to_thread(_passes_statements, program, tests, limits, allow_unisolated)
        return await asyncio.to_thread(_share_of_runs, program, tests, limits, allow_unisolated)

    return reward


def last_program(text: str) -> str | None:
    """The last fenced block behind the reasoning that is Python or names no language; None without one."""
    blocks = _BLOCK.findall(after_reasoning(text))
    return blocks[-1] if blocks else None


def _passes_statements(program: str, tests: str, limits: Limits, allow_unisolated: bool) -> float:
    word = secrets.token_hex(16)
    source = f"{program}\n\n{tests}\n\nprint()\nprint({word!r})\n"
    outcome = run_code(source, limits=limits, allow_unisolated=allow_unisolated)
    return float(outcome.ok and outcome.stdout.rstrip().endswith(word))


def _share_of_runs(
    program: str, tests: Sequence[Mapping[str, Any]], limits: Limits, allow_unisolated: bool
) -> float:
    passed = 0
    for test in tests:
        if "stdout" not in test:
            raise ConfigError(f"test {dict(test)!r}", remedy='it must have "stdout", and may have "stdin"')
        outcome = run_code(program, str(test.get("stdin", "")), limits, allow_unisolated=allow_unisolated)
        if outcome.status == "timeout":  # the next one would most likely take as long
            break
        passed += outcome.ok and _lines(outcome.stdout) == _lines(str(test["stdout"]))
    return passed / len(tests)


def _lines(text: str) -> list[str]:
    """Lines without spaces at their ends, blank ones at the end left out."""
    return [line.rstrip() for line in text.rstrip().splitlines()]
