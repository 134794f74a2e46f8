"""The watermark of a deployment: which key marks, which keys detect, whose answers are marked."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from sqlalchemy.exc import SQLAlchemyError

from hanok.engine.api import SamplingParams
from hanok.errors import HanokError
from hanok.guard.rulebook import Guard
from hanok.reporting import log
from hanok.server.identity.directory import Directory
from hanok.store.database import Store
from hanok.store.watermark_keys import WatermarkKey, WatermarkKeys
from hanok.tokens.watermark import Watermark

Sign = Callable[[str, str], str]


class Watermarks:
    """Args:
    sign: a purpose and a text to 64 hexadecimal digits under the pepper (`Directory.sign`).
    guard: whose policy says who is marked. made: told of a key that was made, with its id.
    """

    def __init__(self, keys: WatermarkKeys, sign: Sign, guard: Guard, made: Callable[[str], None]) -> None:
        self._keys, self._sign, self._guard, self._made = keys, sign, guard, made
        self._lock = threading.Lock()
        self._current: Watermark | None = None

    def take_up(self) -> None:
        """Read the keys anew, and make one where the policy marks and there is none that fits."""
        policy = self._guard.policy
        house = policy.protection.watermark
        with self._lock:
            if not house.enabled and not any(one.watermark.enabled for one in policy.protections.values()):
                self._current = None
                return
            key, new = self._keys.ensure(gamma=house.gamma, width=house.width)
            self._current = watermark_of(key, self._sign)
        if new:
            log.info("watermark: %s marks from now on", key.id)
            self._made(key.id)

    def take_up_or_say(self) -> None:
        """On a reload, which cannot fail any more: the key stays as it was."""
        try:
            self.take_up()
        except (HanokError, SQLAlchemyError) as error:
            log.error("the watermark's key stays as it was: %s", error)

    def marked(self, params: SamplingParams, tenant: str) -> SamplingParams:
        """With the watermark, where the tenant's policy wants one."""
        policy, current = self._guard.protection_of(tenant).watermark, self._current
        if current is None or not policy.enabled:
            return params
        return replace(params, watermark=replace(current, delta=policy.delta))

    def all(self) -> list[Watermark]:
        """Of every key that there ever was. It asks the store: not for the event loop."""
        return [watermark_of(key, self._sign) for key in self._keys.all()]


def watermarks_of(store: Store, guard: Guard, directory: Directory) -> Watermarks:
    """Those of a server. Raises ConfigError: the pepper, which keys come from, cannot be read."""

    def made(identifier: str) -> None:
        directory.trail.tell("watermark.key", actor="server", target=identifier)

    watermarks = Watermarks(WatermarkKeys(store), directory.sign, guard, made)
    watermarks.take_up()
    return watermarks


def watermark_of(key: WatermarkKey, sign: Sign) -> Watermark:
    secret = bytes.fromhex(sign("watermark", f"{key.id}\0{key.nonce}"))
    return Watermark(key=secret, key_id=key.id, gamma=key.gamma, width=key.width)
