"""Fields of sampling that chat completions and plain completions share."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class StreamOptions(BaseModel):
    include_usage: bool = False


class SamplingFields(BaseModel):
    """Numbers are finite; a field that would change the answer and is not understood is refused by `REFUSED`."""

    model_config = ConfigDict(allow_inf_nan=False)

    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31)] = 0
    temperature_scale: Annotated[float, Field(gt=0, le=10)] | None = None
    """Not OpenAI's: of the temperatures that the model's decoding heads choose."""
    min_p: Annotated[float, Field(ge=0, lt=1)] = 0.0
    typical_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=1000)] = 1.0
    logit_bias: dict[int, Annotated[float, Field(ge=-100, le=100)]] | None = None
    bad_words: tuple[Annotated[str, Field(pattern=r"\S", max_length=200)], ...] = Field(
        default=(), max_length=256
    )
    min_tokens: Annotated[int, Field(ge=0, lt=2**31)] = 0
    ignore_eos: bool = False
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    n: Annotated[int, Field(ge=1, le=16)] | None = None
    user: str | None = None

    @model_validator(mode="after")
    def _heads_choose(self) -> Self:
        if self.temperature_scale is not None and not (self.temperature is None and self.top_p is None):
            raise ValueError(
                "temperature_scale scales what decoding heads choose: leave temperature and top_p out"
            )
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        return tuple(filter(None, [self.stop] if isinstance(self.stop, str) else self.stop or ()))

    def sampling_fields(self) -> dict[str, Any]:
        """For `SamplingParams`, but for the lengths and what is reported."""
        return {
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_k": self.top_k,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "min_p": self.min_p,
            "typical_p": self.typical_p,
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty or 0.0,
            "frequency_penalty": self.frequency_penalty or 0.0,
            "logit_bias": self.logit_bias or {},
            "seed": self.seed,
            "stop": self.stops,
            "bad_words": self.bad_words,
            "min_tokens": self.min_tokens,
            "ignore_eos": self.ignore_eos,
            "decoding": "auto" if self.temperature is None and self.top_p is None else "fixed",
            "temperature_scale": self.temperature_scale or 1.0,
            "n": self.n or 1,
        }


def refuse(data: Any, fields: dict[str, str]) -> Any:
    """What a body asks for that would change the answer and is not here: said, not ignored.

    Args:
        fields: name to what to do instead.
    """
    if isinstance(data, dict):
        for name, instead in fields.items():
            if name in data and data[name] not in (None, False, [], {}, ""):
                raise ValueError(f"{name} is not supported: {instead}")
    return data


class Refusing(BaseModel):
    """Subclasses list what they refuse."""

    @classmethod
    def refused(cls) -> dict[str, str]:
        return {}

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, data: Any) -> Any:
        return refuse(data, cls.refused())
