"""From a rule of a policy to a classifier behind an address."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from hanok.errors import ConfigError
from hanok.guard.external import WINDOW, External, Most
from hanok.guard.policy import Rule
from hanok.guard.remote import Remote, Service


def external(rule: Rule, options: Mapping[str, Any], origins: frozenset[str], source: str) -> External:
    """Raises ConfigError: options that do not go together."""
    style = options.get("style", "webhook")
    if style == "chat" and "model" not in options:
        raise ConfigError(
            f'{source}: {rule.name} needs model with style = "chat"', remedy=f"give {rule.name}.model"
        )
    if style == "chat" and "threshold" in options:
        raise ConfigError(
            f'{source}: {rule.name}.threshold means nothing with style = "chat"',
            remedy="leave it out: such models say yes or no",
        )
    if options.get("whole") and "window" in options:
        raise ConfigError(f"{source}: {rule.name} has whole and window", remedy="give one of them")
    variable = options.get("key_variable")
    service = Service(
        url=options["url"], style=style, model=options.get("model"),
        headers={} if variable is None else {"Authorization": f"Bearer {os.environ[variable]}"},
        timeout=options.get("timeout", Service.timeout), concurrency=options.get("concurrency", Service.concurrency),
        threshold=options.get("threshold"),
    )  # fmt: skip
    window = None if options.get("whole") else options.get("window", WINDOW)
    return External(
        Remote(service),
        origins,
        name=rule.name,
        action=rule.action,
        categories=options.get("categories"),
        window=window,
        most=Most(calls=options.get("calls", Most().calls), seconds=options.get("seconds", Most().seconds)),
    )
