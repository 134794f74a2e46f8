"""Every error that a user can meet, on one page.

    HanokError                 exit code 2: the input is at fault; the message says what, where and how to mend it
    ├── ConfigError            a recipe, an option or a model configuration
    ├── InputError             documents, feedback, questions: what the user gave us to read
    │   ├── NotFoundError      an id or a name that nothing here has
    │   ├── ReviewError        a step of a review that its rules forbid
    │   └── StructureError     a schema, regular expression or grammar that an answer cannot be held to
    ├── ArtefactError          a directory that is missing, damaged, of another kind or of a newer format
    │   ├── CheckpointError    weights: a tensor missing, mis-shaped or cut short
    │   └── SignatureError     files that no trusted key has signed as they are
    ├── ChatError              a chat model that gave no reply
    ├── FetchError             an address that may not be asked for, or gave nothing
    ├── ContextLengthError     a prompt longer than the model's context
    ├── CapacityError          no room at the moment
    │   └── QueueFullError     so many requests wait already that this one is not taken
    ├── AuditError             exit code 1: the audit, or a proof from it, is not what it says it is
    ├── RegressionError        exit code 1: attacks on a server work more often than in the run before
    └── EngineError            exit code 1: what ran a model has stopped, through no fault of the request
        └── TeamError          one of several processes that run a model together has ended
    Interrupted                exit code 75: stopped on request, state saved, run the same command to resume

Invariants of our own use `assert`; nothing here is for them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

EXIT_RESUMABLE = 75


class HanokError(Exception):
    """What was wrong and where (`message`), and how to mend it (`remedy`)."""

    exit_code = 2

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


class ConfigError(HanokError):
    """A recipe, option or configuration value breaks a rule."""


class InputError(HanokError):
    """Data that the user gave cannot be read or is unusable."""


class StructureError(InputError):
    """A schema, regular expression or grammar that an answer cannot be held to."""


class NotFoundError(InputError):
    """An id or a name that nothing here has, or nothing of whoever asks."""


class ReviewError(InputError):
    """A step of a review that its rules forbid; `code` is one of few words (`hanok.store.review.rules`)."""

    def __init__(self, code: str, message: str, *, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.code = code


class ArtefactError(HanokError):
    """An artefact directory is missing, damaged, of the wrong kind or too new."""


class CheckpointError(ArtefactError):
    """Weights that do not fit the model or the file they should be in."""


class SignatureError(ArtefactError):
    """A directory that is unsigned, signed by a key that is not trusted, or not what was signed; `why` leaves out where."""

    def __init__(self, place: object, why: str, *, remedy: str = "") -> None:
        super().__init__(f"{place} {why}", remedy=remedy)
        self.why = why


class ContextLengthError(HanokError):
    """A prompt of `prompt` tokens does not fit a context of `limit` tokens."""

    def __init__(self, *, prompt: int, limit: int) -> None:
        super().__init__(
            f"the prompt has {prompt} tokens but the model's context is {limit} tokens",
            remedy="shorten the conversation or serve a model with a longer context",
        )
        self.prompt = prompt
        self.limit = limit


class ChatError(HanokError):
    """A chat model gave no reply, for the `reason` that counts go by (few words, the same for all such calls)."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(
            f"the chat model {reason}" + (f": {detail}" if detail else ""),
            remedy="check that it runs and takes this conversation",
        )
        self.reason = reason
        self.detail = detail


class FetchError(HanokError):
    """An address that may not be asked for, or gave nothing: which of the two, and why, only the log says."""


class CapacityError(HanokError):
    """There is no room for more at the moment."""


class QueueFullError(CapacityError):
    """So many requests wait already that no more are taken: come back in about `retry_after` seconds."""

    def __init__(self, *, waiting: int, limit: int, retry_after: int) -> None:
        super().__init__(
            f"{waiting} requests are waiting, and {limit} may", remedy=f"try again in {retry_after} seconds"
        )
        self.retry_after = retry_after


class AuditError(HanokError):
    """The audit, or a proof from it, is not what it says it is; `report` says what was looked at."""

    exit_code = 1

    def __init__(self, message: str, *, remedy: str = "", report: Mapping[str, Any] | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.report = dict(report or {})


class RegressionError(HanokError):
    """Attacks on a server work more often than in the run before, or it answers none."""

    exit_code = 1


class EngineError(HanokError):
    """What ran a model has stopped, through no fault of the request."""

    exit_code = 1


class TeamError(EngineError):
    """One of several processes that run a model together has ended."""


class Interrupted(Exception):  # noqa: N818 - a state, not an error
    """Stopped on request with its state saved; the same command resumes."""

    exit_code = EXIT_RESUMABLE


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Remedy text that names the nearest known word, or lists them all when none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f'did you mean "{near[0]}"?' if near else f"known: {', '.join(names)}"
