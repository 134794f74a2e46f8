"""What a body says to the chat template beside the conversation: vLLM's `chat_template_kwargs`, OpenAI's `reasoning_effort`.

Values are numbers, truths and single words, so that nothing a model would read as an instruction comes in here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, PrivateAttr, StrictBool, StrictFloat, StrictInt

from hanok.server.errors import ApiError
from hanok.tokens.tokenizer import Tokenizer

Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]
Value = StrictBool | StrictInt | StrictFloat | Word
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
_THINKS = ("enable_thinking", "thinking")  # how templates call whether the model reasons before it answers


class TemplateFields(BaseModel):
    chat_template_kwargs: Annotated[dict[Word, Value], Field(max_length=16)] | None = None
    """Not OpenAI's: variables of the model's chat template."""
    reasoning_effort: Effort | None = None
    _thinks: bool | None = PrivateAttr(default=None)

    def with_thinking(self, thinks: bool | None) -> Self:
        """Whether the model reasons before it answers, where its template can be told; None: as it likes."""
        self._thinks = thinks
        return self

    def template_settings(self, tokenizer: Tokenizer) -> dict[str, Value]:
        """Raises ApiError 400 for what this model's template does not know."""
        if not self.chat_template_kwargs and self.reasoning_effort is None and self._thinks is None:
            return {}
        known, given = tokenizer.template_settings, dict(self.chat_template_kwargs or {})
        unknown = [name for name in given if name not in known]
        if unknown:
            raise _unknown("chat_template_kwargs", f'does not know "{unknown[0]}"', known)
        if self._thinks is not None:
            given = {name: self._thinks for name in _THINKS if name in known} | given
        if self.reasoning_effort is None:
            return given
        said = _of_effort(self.reasoning_effort, known)
        if not said:
            raise _unknown("reasoning_effort", "leaves the effort to the model", known)
        return {**said, **given}


def _of_effort(effort: Effort, known: frozenset[str]) -> Mapping[str, Value]:
    said: dict[str, Value] = {name: effort != "none" for name in _THINKS if name in known}
    return {**said, "reasoning_effort": effort} if "reasoning_effort" in known else said


def _unknown(param: str, what: str, known: frozenset[str]) -> ApiError:
    names = ", ".join(sorted(known)) or "no settings"
    return ApiError(
        400, f"{param}: this model's chat template {what}; it has {names}", param=param, code="unsupported_value"
    )  # fmt: skip
