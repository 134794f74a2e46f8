"""`hanok canary`: asks a running server, since its engines are what is on trial. The key of an administrator of the house is
HANOK_API_KEY, where the server asks for one.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from hanok.artefacts import Withdrawal
from hanok.errors import ConfigError, InputError
from hanok.reporting import table

URL = "http://127.0.0.1:8080"
KEY = "HANOK_API_KEY"
_SECONDS = 600.0  # a model is loaded meanwhile
_ROWS = ("liked", "errors", "flagged", "blocked", "milliseconds", "first_token_milliseconds")


@dataclass(frozen=True, kw_only=True, slots=True)
class At:
    """Args:
    model: name of the served model; default the server's first.
    url: of the server.
    """

    model: str | None = None
    url: str = URL


@dataclass(frozen=True, kw_only=True, slots=True)
class Because:
    """Args:
    reason: for those who look later.
    """

    reason: str = ""


def start(
    directory: Annotated[Path, tyro.conf.Positional], share: float = 0.05, auto_rollback: bool = True, at: At = At()
) -> dict[str, Any]:  # fmt: skip
    """Let another model answer a share of the conversations, beside the one that is served. It goes on when the server is
    started again.

    Args:
        directory: of the new model, on the server's machine.
        share: of the conversations, above 0 and at most 1.
        auto_rollback: take it back as soon as its answers fail more often than the other's, beyond chance.
    """
    body = {"directory": str(directory.resolve()), "share": share, "auto_rollback": auto_rollback}
    return _shown(_ask("POST", at, "", body))


def show(at: At = At()) -> dict[str, Any]:
    """Both models' answers compared, with 95 % intervals."""
    return _shown(_ask("GET", at, ""))


def share(value: Annotated[float, tyro.conf.Positional], at: At = At()) -> dict[str, Any]:
    """Give it another share; conversations that are its own stay so while it grows.

    Args:
        value: above 0 and at most 1.
    """
    return _shown(_ask("PATCH", at, "", {"share": value}))


def promote(because: Because = Because(), at: At = At()) -> dict[str, Any]:
    """Give everybody the new model; requests under way finish where they are."""
    return _shown(_ask("POST", at, "/promote", asdict(because)))


def rollback(because: Because = Because(), at: At = At()) -> dict[str, Any]:
    """Give everybody the old model again; the new one is not chosen by itself any more."""
    return _shown(_ask("POST", at, "/rollback", asdict(because)))


def _ask(method: str, at: At, action: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    import httpx

    key = os.environ.get(KEY)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx.Client(base_url=at.url, headers=headers, timeout=_SECONDS, trust_env=False) as http:
            model = at.model or _answer(http.get("/v1/models"))["data"][0]["id"]
            return _answer(http.request(method, f"/admin/models/{model}/canary{action}", json=body))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ConfigError(
            f"no server answers at {at.url} ({error})", remedy="say where it is with --url"
        ) from error


def _answer(response: Any) -> dict[str, Any]:
    try:
        found = response.json()
    except ValueError as error:
        raise ConfigError(
            f"{response.url} is no Hanok server", remedy="say where it is with --url"
        ) from error
    if response.is_success:
        return found
    remedy = f"set {KEY} to an administrator's key" if response.status_code in (401, 403) else ""
    raise InputError(found["error"]["message"], remedy=remedy)


def _shown(found: dict[str, Any]) -> dict[str, Any]:
    sides = [[side, found[side]["directory"], found[side]["hash"][:12]] for side in ("current", "canary")]
    table(f"{found['model']}: {found['state']}, share {found['share']:g}", ("", "directory", "hash"), sides)
    if found["withdrawn"] is not None:
        print(f"the canary was {Withdrawal(**found['withdrawn'])}", file=sys.stderr)
    if "comparison" in found:
        arms, differences = found["comparison"]["arms"], found["comparison"]["differences"]
        counts = [side["requests"] for side in arms.values()]
        table(
            f"{counts[0]} answers of the current model, {counts[1]} of the canary",
            ("", "current", "canary", "difference", "low", "high", "beyond chance"),
            [
                [name.replace("_", " "), arms["current"][name]["value"], arms["canary"][name]["value"],
                 differences[name]["value"], differences[name]["low"], differences[name]["high"], differences[name]["clear"]]
                for name in _ROWS
            ],
        )  # fmt: skip
    return found
