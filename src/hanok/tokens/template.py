"""Chat templates: Jinja in a sandbox, rendered to runs of plain text between control tokens.

The template's control tokens and look-alikes in content must not be confused. So before rendering, every character of
content that could begin a control token gets a mark after it (a code point that the content does not hold);
control tokens found in the rendered text are then the template's own, and the marks are taken out again.
The spans of `{% generation %}` blocks, which are what training learns, are found in the same way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from itertools import chain
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hanok.errors import ConfigError, InputError

Message = Mapping[str, Any]
Setting = bool | int | float | str
ROLES = ("system", "user", "assistant", "tool")
_TICK = "_turn_of_a_loop"
_GIVEN = frozenset({"messages", "tools", "documents", "add_generation_prompt", "_generation_marks", _TICK})
_ROLE_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
_LOOPS, _LOOPS_EACH = 20_000, 2_000  # turns: in all, and for each message or tool
_OUTPUT, _OUTPUT_EACH = 1_000_000, 10  # characters: in all, and for each that goes in
_PRODUCT = 1_000_000
_written = json.JSONEncoder(ensure_ascii=False).encode  # made once: `json.dumps` makes one each time


@dataclass(frozen=True, slots=True)
class Run:
    """A control token, or the plain text between two of them.

    Args:
        trained: spans [start, end) in UTF-8 bytes of `text` that lie in a generation block, in order.
    """

    text: str
    control: bool
    trained: tuple[tuple[int, int], ...]


class ChatTemplate:
    """A compiled template, and the control tokens that it may write.

    Args:
        names: what templates read beside the messages: `bos_token`, `eos_token` and the like.
    """

    def __init__(
        self, source: str, control_tokens: Sequence[str], names: Mapping[str, str] | None = None
    ) -> None:
        self.source = source
        self._names = dict(names or {})
        self._takes_text = re.search(r"arguments\s+is\s+string", source) is not None
        longest_first = sorted(control_tokens, key=len, reverse=True)
        self._control = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
        firsts = "".join(sorted({token[0] for token in control_tokens}))
        self._suspicious = re.compile(f"[{re.escape(firsts)}]")
        try:
            self._template, asked = _compile(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise ConfigError(
                f"the chat template does not compile: {error}",
                remedy="mend chat_template in tokenizer_config.json",
            ) from error
        self.settings = frozenset(asked - _GIVEN - self._names.keys() - set(_ROLE_NAMES))

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = False,
        settings: Mapping[str, Setting] | None = None,
    ) -> list[Run]:
        """Args: settings: some of `self.settings`, which this template reads beside the conversation.

        Raises InputError: messages that are not of OpenAI's chat form, or that the template refuses; a setting it has not.
        """
        check_messages(messages)
        chosen: dict[str, Setting] = dict(settings or {})
        if not chosen.keys() <= self.settings:
            raise InputError(
                f"the chat template has no settings {', '.join(sorted(chosen.keys() - self.settings))}",
                remedy=f"it has {', '.join(sorted(self.settings)) or 'none'}",
            )
        text = _written([messages, tools, chosen])
        _check_unicode(text)
        mark, start, end = _unused(text, 3)
        content, listed = list(messages), list(tools) if tools else None
        if not self._takes_text:
            content = [_with_objects(message) for message in content]
        if self._suspicious.search(text):
            content, listed = self._marked(content, mark), self._marked(listed, mark)
            chosen = self._marked(chosen, mark)
        try:
            rendered = self._render(
                len(text), len(messages) + len(listed or ()),
                messages=content, tools=listed, add_generation_prompt=add_generation_prompt,
                _generation_marks=(start, end), **chosen,
            )  # fmt: skip
        except (jinja2.TemplateError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InputError(
                f"the chat template refuses these messages: {error}",
                remedy="see the template in tokenizer_config.json for what it expects",
            ) from error
        return list(self._runs(rendered, mark, start, end))

    def _render(self, size: int, parts: int, **variables: Any) -> str:
        """Within bounds that follow from what goes in: a template that runs away is stopped."""
        budget = _Budget(_LOOPS + _LOOPS_EACH * parts)
        text, most = [], _OUTPUT + _OUTPUT_EACH * size
        for piece in self._template.generate(**self._names, **variables, documents=None, **{_TICK: budget}):
            text.append(piece)
            most -= len(piece)
            if most < 0:
                raise jinja2.TemplateRuntimeError("it writes without end")
        return "".join(text)

    def _marked(self, value: Any, mark: str) -> Any:
        if isinstance(value, str):
            return self._suspicious.sub(lambda match: match[0] + mark, value)
        if isinstance(value, Mapping):
            return {self._marked(key, mark): self._marked(item, mark) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._marked(item, mark) for item in value]
        return value

    def _runs(self, rendered: str, mark: str, start: str, end: str) -> Iterator[Run]:
        if start not in rendered:  # nobody has spoken that training could learn from
            for place, part in enumerate(self._control.split(rendered)):
                if text := part.replace(mark, ""):
                    yield Run(text, place % 2 == 1, ())
            return
        generating = False
        for place, part in enumerate(self._control.split(rendered)):
            if place % 2:
                yield Run(part, True, ((0, len(part.encode())),) if generating else ())
                continue
            text, spans = "", []
            for piece in re.split(f"([{start}{end}])", part.replace(mark, "")):
                if piece in (start, end):
                    generating = piece == start
                elif piece:
                    before = len(text.encode())
                    text += piece
                    if generating:
                        spans.append((before, len(text.encode())))
            if text:
                yield Run(text, False, tuple(spans))


def default_template() -> str:
    """The ChatML template that trained tokenisers carry."""
    return (
        resources.files("hanok.tokens")
        .joinpath("chat_template.jinja")
        .read_text(encoding="utf-8")
        .rstrip("\n")
    )


def check_messages(messages: Sequence[Message]) -> None:
    """Raises InputError naming the message and the rule that it breaks."""
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise InputError(
            "messages must be a list with at least one message", remedy="see OpenAI's chat format"
        )
    for place, message in enumerate(messages):
        where = f"messages[{place}]"
        if not isinstance(message, Mapping):
            raise InputError(f"{where} is no object", remedy='write {"role": ..., "content": ...}')
        if message.get("role") not in ROLES:
            raise InputError(f"{where}.role = {message.get('role')!r}", remedy=f"one of {', '.join(ROLES)}")
        content = message.get("content")
        if not isinstance(content, str) and not (content is None and message["role"] == "assistant"):
            raise InputError(f"{where}.content is {type(content).__name__}", remedy="content is a string")
        for call in message.get("tool_calls") or ():
            function = call.get("function", call) if isinstance(call, Mapping) else {}
            if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
                raise InputError(
                    f"{where}.tool_calls: a call without a function name", remedy="name the function"
                )
            if not isinstance(function.get("arguments"), (str, Mapping)):
                raise InputError(
                    f"{where}.tool_calls: arguments of {function['name']} are neither JSON text nor an object",
                    remedy="give the arguments as JSON",
                )


def _with_objects(message: Message) -> Message:
    """Arguments of tool calls as objects: OpenAI's form has them as JSON text, most templates do not expect that."""
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        function = call.get("function", call)
        arguments = function["arguments"]
        if isinstance(arguments, str):
            try:
                function = {**function, "arguments": json.loads(arguments or "{}")}
            except ValueError as error:
                raise InputError(
                    f"arguments of {function['name']} are not JSON ({error})",
                    remedy="give the arguments as JSON",
                ) from error
        calls.append({**call, "function": function} if "function" in call else function)
    return {**message, "tool_calls": calls}


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            "messages that are not Unicode: half a surrogate pair",
            remedy="remove the characters U+D800 to U+DFFF",
        ) from error


class _Budget:
    """The turns that all loops of one rendering may take."""

    def __init__(self, turns: int) -> None:
        self.turns = turns


def _count(budget: Any) -> bool:
    """A turn of a loop. Whatever a template puts in the budget's place has none."""
    if not isinstance(budget, _Budget) or budget.turns <= 0:
        raise jinja2.TemplateRuntimeError("it loops without end")
    budget.turns -= 1
    return True


class _Sandbox(ImmutableSandboxedEnvironment):
    """No attributes with underscores, no mutation, no products that fill the memory."""

    intercepted_binops = frozenset(["*", "**"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sizes = [len(x) if isinstance(x, (str, bytes, list, tuple)) else abs(x) for x in (left, right)]
        steep = operator == "**" and (sizes[0] > 1000 or sizes[1] > 100)
        if steep or sizes[0] * sizes[1] > _PRODUCT:
            raise jinja2.TemplateRuntimeError(f"{left!s:.20} {operator} {right!s:.20} is too large")
        return super().call_binop(context, operator, left, right)


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}`: its output between two marks that the renderer passes in."""

    tags = {"generation"}  # noqa: RUF012 - jinja's interface

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_between_marks", [nodes.ContextReference()])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _between_marks(self, context: Any, caller: Any) -> str:
        start, end = context["_generation_marks"]
        return f"{start}{caller()}{end}"


def _compile(source: str) -> tuple[jinja2.Template, set[str]]:
    """In the dialect that published chat templates are written in, each turn of a loop counted; and the names it asks for."""
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.tests[_TICK] = _count
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    tree = environment.parse(source)
    asked = meta.find_undeclared_variables(tree) - environment.globals.keys()
    for loop in tree.find_all(nodes.For):
        budget = nodes.Name(
            _TICK, "load"
        )  # counted by a test, which is called without the sandbox's looks at what is called
        count = nodes.ExprStmt(nodes.Test(budget, _TICK, [], [], None, None))
        loop.body.insert(0, count.set_lineno(loop.lineno))
    tree.set_environment(environment)
    code = environment.compile(tree)
    names = dict(environment.globals)  # not a chain of tables, which each rendering would copy slowly
    made = environment.template_class.from_code(environment, code, names)
    return made, asked


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _unused(text: str, count: int) -> list[str]:
    """Code points that `text` does not hold: noncharacters first, then private use."""
    candidates = chain(range(0xFDD0, 0xFDF0), range(0xE000, 0xF900), range(0xF0000, 0xFFFFE))
    found = []
    for code in candidates:
        if chr(code) not in text:
            found.append(chr(code))
            if len(found) == count:
                return found
    raise InputError("the messages use every private code point there is", remedy="remove some of them")
