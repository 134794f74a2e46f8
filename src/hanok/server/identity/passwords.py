"""Passwords of people: argon2id, a few at a time, since each takes a tenth of a second and tens of megabytes."""

from __future__ import annotations

import secrets
import threading

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from hanok.errors import InputError

SHORTEST, LONGEST = 10, 200


class Passwords:
    """Hashing and checking for one server."""

    def __init__(self, *, at_once: int = 2) -> None:
        self._hasher, self._turn = PasswordHasher(), threading.Semaphore(at_once)
        self._nobody: str | None = None

    def hash(self, password: str) -> str:
        """Raises InputError if it is too short or too long."""
        if not SHORTEST <= len(password) <= LONGEST:
            raise InputError(
                f"the password has {len(password)} characters", remedy=f"take {SHORTEST} to {LONGEST}"
            )
        with self._turn:
            return self._hasher.hash(password)

    def fits(self, kept: str | None, password: str) -> bool:
        """Takes as long where there is nobody of the name (`kept` is None), so that the time does not tell."""
        if len(password) > LONGEST:
            return False
        with self._turn:
            if self._nobody is None:
                self._nobody = self._hasher.hash(secrets.token_hex(16))
            try:
                return self._hasher.verify(kept or self._nobody, password) and kept is not None
            except (VerificationError, InvalidHashError):
                return False
