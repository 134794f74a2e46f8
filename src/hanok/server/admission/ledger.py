"""A process's purse: what it has drawn ahead on each meter, and the thread that goes to the store for more.

All who need more at the same moment are served in one transaction, and what has to be written down (usage, what is given back,
places still held) goes along. The thread ends when nothing is left to do, and starts again by itself.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from hanok.reporting import log
from hanok.store.allowances import Answer, Drawn, Short, Want, draw, give_up_places, look
from hanok.store.database import Store
from hanok.store.meters import Clock
from hanok.store.usage import SUMS, add_usage

FLUSH_SECONDS = 1.0  # between writing down what was used
IDLE_SECONDS = 1.0  # after which less is kept in hand of what nobody needs, so that other processes have it
FORGOTTEN_SECONDS = 60.0  # after which all of it goes back
REFUSED_SECONDS = 0.25  # that a refusal is remembered without asking the store again
EPSILON = 1e-6  # of a unit
AHEAD = 16  # a sixteenth of a rate is drawn ahead
UsedKey = tuple[str, str, str, str]


@dataclass(slots=True)
class Account:
    """What this process has in hand of a meter; below nothing: spent more than was reserved, and not yet charged.

    Args:
        used: when it was needed last. leased: places that the store has down for this process, in hand or out.
        left, reset, known: what the store said last that anybody could draw, and when.
        short, refused: until this moment nobody asks for so much or more. fetching, quiet: more is on its way; it is of no use
            to ask for more before this moment.
    """

    want: Want
    hand: float = 0.0
    leased: float = 0.0
    used: float = 0.0
    left: float = 0.0
    reset: float = 0.0
    known: float = 0.0
    short: float = float("inf")
    refused: float = 0.0
    fetching: bool = False
    quiet: float = 0.0

    @property
    def ahead(self) -> float:
        """How much to draw beyond the need: of a rate what four seconds bring; of a budget little, since a crash loses it."""
        cap = self.want.cap
        if self.want.kind == "places":
            return float(min(int(cap) // 4, 64))
        return cap / AHEAD if self.want.kind == "minute" else min(cap / (4 * AHEAD), 256 * self.want.need)

    def kept(self, unused: float) -> float:
        """How much stays in hand of what was not needed for so many seconds: who comes back after a pause does not wait for the
        store, and of places a few processes that rest have no more than a share."""
        if unused <= IDLE_SECONDS:
            return self.ahead
        if unused > FORGOTTEN_SECONDS:
            return 0.0
        return min(self.ahead, self.want.cap // AHEAD) if self.want.kind == "places" else self.ahead


@dataclass(slots=True)
class Errand:
    """To the store, for `wants`. `had`: what was taken of what was in hand; it lies there again if the store has too little."""

    wants: Sequence[Want]
    had: Sequence[Want]
    done: Future[Answer] = field(default_factory=Future)


class Ledger:
    """Any thread may call any method.

    Args:
        also: called at each flush, in the thread: more that is to be written down now and then.
    """

    def __init__(
        self, store: Store, *, clock: Clock | None = None, also: Callable[[], None] | None = None
    ) -> None:
        self._store, self._clock, self._also = store, clock or Clock(), also
        self._process = secrets.token_hex(8)
        self._lock = threading.Condition()
        self._accounts: dict[str, Account] = {}
        self._errands: list[Errand] = []
        self._used: dict[UsedKey, list[float]] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    def now(self) -> float:
        """Seconds of the epoch as the store has them."""
        return self._clock.now()

    def take(self, wants: Sequence[Want]) -> Errand | Short | None:
        """None: all were in hand and are taken. An errand: the store is asked; unless its answer is `Short` all are taken.
        Short: refused a moment ago."""
        with self._lock:
            moment, missing = time.monotonic(), []
            accounts = [self._account(want, moment) for want in wants]
            for want, account in zip(wants, accounts, strict=True):
                if account.hand + EPSILON < want.need:
                    if moment < account.refused and want.need >= account.short:
                        wait = max(account.refused - moment, account.reset - (moment - account.known))
                        return Short(want, account.left, wait)
                    missing.append((want, account))
            had = [
                replace(want, need=min(want.need, account.hand))
                for want, account in zip(wants, accounts, strict=True)
                if missing
            ]
            for want, account in zip(wants, accounts, strict=True):
                account.hand -= want.need
            if not missing:
                self._fetch(accounts)
                return None
            errand = Errand(
                [replace(want, need=-account.hand, extra=account.ahead) for want, account in missing], had
            )
            for _, account in missing:
                account.hand = 0.0  # what is missing is on its way to this one request
            self._errands.append(errand)
            self._wake()
            return errand

    def give_back(self, wants: Sequence[Want]) -> None:
        """Units that were taken and are not used; fewer than none: used beyond what was taken."""
        with self._lock:
            moment = time.monotonic()
            for want in wants:
                account = self._account(want, moment)
                account.hand += want.need
                if want.need > 0:
                    account.short = float("inf")
            self._wake()

    def undo(self, errand: Errand, short: Short | None = None) -> None:
        """The store had too little, or did not answer. Where it had, nobody asks for as much for a moment."""
        with self._lock:
            moment = time.monotonic()
            for want in errand.had:
                self._account(want, moment).hand += want.need
            if short is not None:
                account = self._accounts[short.want.meter]
                account.short, account.refused = short.want.need, moment + min(short.wait, REFUSED_SECONDS)
                account.left, account.reset, account.known = short.left, short.wait, moment

    def use(self, key: UsedKey, sums: Mapping[str, float]) -> None:
        """Adds to what is to be written down."""
        with self._lock:
            found = self._used.setdefault(key, [0.0] * len(SUMS))
            for place, name in enumerate(SUMS):
                found[place] += sums.get(name, 0.0)
            self._wake()

    def look(self, wants: Sequence[Want]) -> list[tuple[float, float]]:
        """Of each, how many units could be taken now, and in how many seconds all could: what the store says, and what this
        process has drawn ahead. Other processes may have drawn ahead a little, which is not counted."""
        with self._store.read() as connection:
            found = look(connection, wants, clock=self._clock)
        with self._lock:
            hands = {
                want.meter: account.hand for want in wants if (account := self._accounts.get(want.meter))
            }
        return [
            (
                max(0.0, min(want.cap, found[want.meter].left + hands.get(want.meter, 0.0))),
                found[want.meter].reset,
            )
            for want in wants
        ]

    def left(self, want: Want) -> tuple[float, float]:
        """About the same for what was asked for a moment ago, from memory."""
        with self._lock:
            account = self._accounts.get(want.meter)
            if account is None:
                return want.cap, 0.0
            passed = time.monotonic() - account.known
            grown = passed * want.cap / 60.0 if want.kind == "minute" else 0.0
            return min(want.cap, max(0.0, account.left + grown) + max(0.0, account.hand)), max(
                0.0, account.reset - passed
            )

    def flush(self) -> None:
        """Everything is written down, and all that was drawn ahead given back."""
        with self._lock:
            thread, self._closed = self._thread, True
            self._lock.notify()
        if thread is not None:
            thread.join()
        with self._lock:
            self._closed = False
        self._settle(everything=True)

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _fetch(self, accounts: Sequence[Account]) -> None:
        """The lock is held: more of what runs low, before anybody waits for it."""
        moment = time.monotonic()
        low = [
            one for one in accounts
            if not one.fetching and one.hand < one.ahead / 4 and moment >= one.quiet and one.want.kind != "places"
        ]  # fmt: skip
        if low:
            self._errands += [Errand([replace(one.want, need=0.0, extra=one.ahead)], ()) for one in low]
            for one in low:
                one.fetching = True
            self._wake()

    def _account(self, want: Want, moment: float) -> Account:
        account = self._accounts.get(want.meter)
        if account is None:
            account = self._accounts[want.meter] = Account(want)
        account.want, account.used = want, moment
        return account

    def _wake(self) -> None:
        """The lock is held."""
        if self._thread is None and not self._closed:
            thread = threading.Thread(target=self._run, name="hanok-ledger", daemon=True)
            thread.start()
            self._thread = thread  # only now: one that could not start is tried again
        elif self._errands:
            self._lock.notify()

    def _run(self) -> None:
        next_flush = time.monotonic() + FLUSH_SECONDS
        while True:
            with self._lock:
                while not self._errands and not self._closed and time.monotonic() < next_flush:
                    self._lock.wait(next_flush - time.monotonic())
                errands, self._errands = self._errands, []
            if errands:
                self._serve(errands)
            if time.monotonic() >= next_flush:
                self._settle()
                next_flush = time.monotonic() + FLUSH_SECONDS
            with self._lock:
                if not self._errands and (self._closed or not (self._accounts or self._used)):
                    self._thread = None
                    return

    def _serve(self, errands: Sequence[Errand]) -> None:
        with self._lock:
            groups = [[self._with_lease(want) for want in errand.wants] for errand in errands]
        try:
            with self._store.write() as connection:
                answers = draw(connection, groups, clock=self._clock, process=self._process)
        except Exception as error:  # whoever waits hears of it, whatever it was
            with self._lock:
                for account in self._accounts.values():
                    account.fetching = False
            for errand in errands:
                errand.done.set_exception(error)
            return
        for errand, answer in zip(errands, answers, strict=True):
            if not isinstance(answer, Short):
                self._credit(errand.wants, answer)
            errand.done.set_result(answer)

    def _credit(self, wants: Sequence[Want], drawn: Mapping[str, Drawn]) -> None:
        """What came beyond the need is there for others."""
        with self._lock:
            moment = time.monotonic()
            for want in wants:
                account, got = self._accounts.get(want.meter), drawn[want.meter]
                if account is None:
                    account = self._accounts[want.meter] = Account(want, used=moment)
                account.hand += got.units - want.need
                account.fetching = False
                account.quiet = moment + (0.0 if got.units >= want.extra / 2 else 2 * REFUSED_SECONDS)
                account.leased += got.units if want.kind == "places" else 0.0
                account.left, account.reset, account.known = got.left, got.reset, moment

    def _settle(self, *, everything: bool = False) -> None:
        """Usage is written down, debts are charged, what lies unused is given back, places are kept."""
        with self._lock:
            used, self._used = self._used, {}
            wants = self._returns(everything)
        if not used and not wants and not everything:
            return
        try:
            with self._store.write() as connection:
                add_usage(connection, used)
                draw(connection, [[want] for want in wants], clock=self._clock, process=self._process)
                if everything:
                    give_up_places(connection, self._process)
        except Exception as error:
            log.error("what was used could not be written down; it will be tried again", exc_info=error)
            with self._lock:
                for key, sums in used.items():
                    kept = self._used.setdefault(key, [0.0] * len(SUMS))
                    self._used[key] = [one + other for one, other in zip(kept, sums, strict=True)]
                for want in wants:
                    account = self._accounts.setdefault(want.meter, Account(want))
                    account.hand -= want.need
                    account.leased -= want.need if want.kind == "places" else 0.0
            return
        try:
            if self._also is not None:
                self._also()
        except Exception as error:  # what was written above stays written
            log.error("when keys were last used could not be written down", exc_info=error)

    def _returns(self, everything: bool) -> list[Want]:
        """The lock is held: what goes back to the store (fewer than none), or is charged. Accounts that nobody has needed for
        long are forgotten."""
        moment, wants = time.monotonic(), []
        for name, account in list(self._accounts.items()):
            unused = moment - account.used
            surplus = account.hand - (0.0 if everything else account.kept(unused))
            if account.hand < -EPSILON and account.want.kind != "places":
                surplus = account.hand
            elif surplus <= EPSILON:
                surplus = 0.0
            if surplus or account.leased > EPSILON:  # a word now and then keeps places
                wants.append(self._with_lease(replace(account.want, need=-surplus, extra=0.0, force=True)))
            account.hand -= surplus
            if account.want.kind == "places":
                account.leased -= surplus
            if unused > FORGOTTEN_SECONDS and account.leased <= EPSILON and abs(account.hand) <= EPSILON:
                del self._accounts[name]
        return wants

    def _with_lease(self, want: Want) -> Want:
        account = self._accounts.get(want.meter)
        return want if account is None or want.kind != "places" else replace(want, mine=account.leased)
