"""Conversations with answers that a program can check, from templates of which some are kept for the test split."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hanok.data.village import arithmetic, other_questions, questions, sentences
from hanok.data.village.documents import letter, state
from hanok.data.village.korean import fill
from hanok.data.village.places import Name, Place
from hanok.data.village.tools import TOOLS, calculate, hours, timetable, tool_call
from hanok.data.village.wordings import Wordings

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Template:
    """A way to ask: which wording between which opener and closer, and whether training sees it."""

    id: str
    wording: str
    opener: str
    closer: str
    seen: bool

    def ask(self, language: str, **words: str) -> str:
        question = fill(self.wording, **words)
        if self.opener.endswith(", ") and not self.wording.startswith(("{", "I ")):
            question = question[0].lower() + question[1:]
        return self.opener + question + self.closer


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation whose last assistant turn is the gold answer, with what `check` needs to know."""

    kind: str
    language: str
    template: Template
    messages: list[Message]
    answer: str
    type: str
    pair: str | None = None
    tools: list[dict[str, Any]] | None = None
    choices: tuple[str, ...] = ()
    call: dict[str, Any] | None = None
    subject: tuple[str, ...] = field(default=())


class TemplateBook:
    """Draws templates of one wording list, only seen ones or only unseen ones."""

    def __init__(self, language: str, rng: random.Random) -> None:
        self.language, self.rng = language, rng

    def draw(self, name: str, wordings: Wordings, *, seen: bool, framed: bool = True) -> Template:
        """One of the seen or of the unseen wordings, `framed` by an opener and a closer or not."""
        choice = wordings.seen if seen else wordings.unseen
        place = self.rng.randrange(len(choice))
        opener, closer = self._frame(new=not seen) if framed else ("", "")
        number = place + (0 if seen else len(wordings.seen))
        return Template(f"{name}.{self.language}.{number}", choice[place], opener, closer, seen)

    def _frame(self, *, new: bool) -> tuple[str, str]:
        """Half of the questions stand alone; around unseen wordings some openers and closers are unseen too."""
        language, rng = self.language, self.rng
        openers, closers = questions.OPENERS[language], questions.CLOSERS[language]
        if new and rng.random() < 0.25:
            openers, closers = questions.HELD_OUT_OPENERS[language], questions.HELD_OUT_CLOSERS[language]
        opener = rng.choice(openers) if rng.random() < 0.4 else ""
        return opener, rng.choice(closers) if rng.random() < 0.2 else ""


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


class Conversations:
    """Makes one dialogue of each kind for a language."""

    def __init__(self, language: str, rng: random.Random) -> None:
        self.language, self.rng = language, rng
        self.book = TemplateBook(language, rng)

    def fact(self, place: Place, attribute: str, *, seen: bool, pair: str = "trained") -> Dialogue:
        language = self.language
        template = self._fact_template(attribute, seen=seen)
        question = template.ask(language, p=place.name.of(language))
        messages = [user(question), assistant(state(place, attribute, language, 0))]
        value = place.value(attribute, language)
        subject = (place.name.ko, attribute)
        return Dialogue("fact", language, template, messages, value, attribute, pair, subject=subject)

    def follow_up(self, place: Place, first: str, second: str, *, seen: bool) -> Dialogue:
        """The second question says "there" or "it"."""
        language = self.language
        opening = self._fact_template(first, seen=True)
        wordings = questions.FOLLOW_UPS[language][second]
        template = self.book.draw(f"follow-up-{second}", wordings, seen=seen, framed=False)
        messages = [
            user(opening.ask(language, p=place.name.of(language))), assistant(state(place, first, language, 0)),
            user(template.ask(language)), assistant(state(place, second, language, 0)),
        ]  # fmt: skip
        value = place.value(second, language)
        return Dialogue("follow-up", language, template, messages, value, second, "trained")

    def comparison(self, a: Place, b: Place, attribute: str, *, seen: bool) -> Dialogue:
        """By founding year, price or opening hour; the answer states both before it decides."""
        language = self.language
        wordings = other_questions.COMPARISONS[language][attribute]
        template = self.book.draw(f"comparison-{attribute}", wordings, seen=seen)
        names = (a.name.of(language), b.name.of(language))
        better = min((a, b), key=lambda p: getattr(p, attribute)).name.of(language)
        verdict = fill(other_questions.VERDICTS[language][attribute], p=better)
        answer = " ".join((state(a, attribute, language, 0), state(b, attribute, language, 0), verdict))
        messages = [user(template.ask(language, p=names[0], q=names[1])), assistant(answer)]
        return Dialogue("comparison", language, template, messages, better, "place", "trained", choices=names)

    def sum(self, problem: arithmetic.Problem, operation: str, *, seen: bool) -> Dialogue:
        language = self.language
        frames = arithmetic.FRAMES[language][operation]
        template = self.book.draw(f"arithmetic-{operation}", frames, seen=seen)
        question = template.ask(language, a=str(problem.left), b=str(problem.right))
        answer = fill(arithmetic.ANSWERS[language], worked=problem.worked, result=str(problem.result))
        return Dialogue(
            "arithmetic",
            language,
            template,
            [user(question), assistant(answer)],
            str(problem.result),
            "number",
        )

    def unknown(self, name: Name, attribute: str, *, seen: bool) -> Dialogue:
        """A question about a place that is not there."""
        language = self.language
        template = self._fact_template(attribute, seen=seen)
        answer = fill(sentences.UNKNOWN[language], p=name.of(language))
        messages = [user(template.ask(language, p=name.of(language))), assistant(answer)]
        return Dialogue("abstention", language, template, messages, "", attribute)

    def calculator(self, problem: arithmetic.Problem, *, seen: bool) -> Dialogue:
        language = self.language
        template = self.book.draw("tool-calculate", other_questions.CALCULATE[language], seen=seen)
        expression = problem.expression
        call = tool_call("calculate", expression=expression)
        answer = fill(other_questions.CALCULATED[language], e=expression, v=str(problem.result))
        messages = _with_tool(template.ask(language, e=expression), call, calculate(expression), answer)
        wanted = {"name": "calculate", "arguments": {"expression": expression}}
        return Dialogue(
            "tool", language, template, messages, str(problem.result), "number", tools=TOOLS, call=wanted
        )

    def opening_hours(self, place: Place, *, seen: bool) -> Dialogue:
        language = self.language
        template = self.book.draw("tool-hours", other_questions.HOURS[language], seen=seen)
        name = place.name.of(language)
        result = hours(name, timetable([place]))
        opens, closes = place.value("open", language), place.value("close", language)
        answer = fill(other_questions.HOURS_ANSWER[language], p=name, o=opens, c=closes)
        messages = _with_tool(template.ask(language, p=name), tool_call("hours", place=name), result, answer)
        wanted = {"name": "hours", "arguments": {"place": name}}
        return Dialogue(
            "tool", language, template, messages, f"{opens} {closes}", "hours", tools=TOOLS, call=wanted
        )

    def small_talk(self) -> Dialogue:
        language, rng = self.language, self.rng
        asked, answers = rng.choice(other_questions.SMALL_TALK[language])
        template = Template(f"small-talk.{language}", "{p}", "", "", True)
        messages = [user(rng.choice(asked)), assistant(rng.choice(answers))]
        return Dialogue("small-talk", language, template, messages, "", "text")

    def letter(self, place: Place, attributes: Sequence[str]) -> Dialogue:
        """A letter or a story that tells these attributes."""
        language, rng = self.language, self.rng
        index = rng.randrange(len(other_questions.LETTERS[language]))
        template = Template(
            f"letter.{language}.{index}", other_questions.LETTERS[language][index], "", "", True
        )
        text = letter(place, attributes, language, rng)
        messages = [user(template.ask(language, p=place.name.of(language))), assistant(text)]
        return Dialogue("letter", language, template, messages, "", "text")

    def _fact_template(self, attribute: str, *, seen: bool) -> Template:
        wordings = questions.QUESTIONS[self.language][attribute]
        return self.book.draw(f"fact-{attribute}", wordings, seen=seen)


def _with_tool(question: str, call: dict[str, Any], result: str, answer: str) -> list[Message]:
    return [
        user(question),
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": result, "tool_call_id": call["id"]},
        assistant(answer),
    ]
