"""The audit of a server: opened as its settings say, begun and ended with an entry, shown in its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from starlette.types import ASGIApp

from hanok.guard.rulebook import Guard
from hanok.server.auditing.capture import Capture
from hanok.server.auditing.requests import RequestTrail
from hanok.server.auditing.trail import Trail
from hanok.server.auditing.verdicts import verdict_writer
from hanok.server.operations.config import ServeSettings
from hanok.server.operations.requests import CURRENT, Watcher
from hanok.server.protection.transparency import notice_hash
from hanok.server.services import Services
from hanok.store.audit.log import AuditLog, LogSettings
from hanok.store.audit.place import audit_place
from hanok.store.connection import Place


def open_audit(settings: ServeSettings, store: Place) -> AuditLog | None:
    """None where the settings want none.

    Raises:
        ConfigError, InputError: as `AuditLog` and `audit_place` do: a server without its audit does not start.
    """
    if not settings.audit:
        return None
    place = audit_place(store, folder=settings.audit_dir, mirror=settings.audit_mirror)
    return AuditLog(place, settings=LogSettings(content_days=settings.audit_content_days))


def audited(app: ASGIApp, services: Services) -> tuple[ASGIApp, Sequence[Watcher]]:
    """The application, with what the audit needs around it; and who is to be told of each request."""
    trail, operations = services.directory.trail, services.operations
    log = trail.server_log
    if log is None:
        return app, ()
    operations.metrics.add(AuditNumbers(log))
    operations.told.append(lambda what, facts: trail.tell(what, actor="server", facts=facts))
    operations.reloaded.append(partial(_tell_reload, trail))
    services.verdicts.append(verdict_writer(trail))
    requests = RequestTrail(trail)
    trail.at_end.append(requests.close)
    return Capture(app) if operations.settings.audit_content else app, (requests,)


def end_audit(trail: Trail) -> None:
    """Everything is written and signed when this returns."""
    if trail.server_log is not None:
        for finish in trail.at_end:
            finish()
        trail.tell("server.stop", actor="server")
        trail.server_log.close()


def _tell_reload(trail: Trail, facts: Mapping[str, Any]) -> None:
    """Whoever asked for it waits for the entry; a signal comes on the event loop, which does not."""
    if CURRENT.get() is None:
        trail.tell("settings.reload", actor="server", facts=facts)
    else:
        trail.sure("settings.reload", facts=facts)


def policy_facts(guard: Guard) -> dict[str, Any]:
    """Which rules are in force, without places of the machine; which words users are told."""
    notice = notice_hash(guard.policy.protection.transparency)
    return {"policy": {"source": Path(guard.policy.source).name, "hash": guard.policy.hash}, "notice": notice}


def settings_facts(settings: ServeSettings, model: Path, model_hash: str, guard: Guard) -> dict[str, Any]:
    """What a server was begun with, without places of its machine."""
    return {
        "model": model.name, "hash": model_hash, "host": settings.host, "trust_loopback": settings.trust_loopback,
        "setup": settings.setup, "audit_content": settings.audit_content, "audit_content_days": settings.audit_content_days,
        "mirror": settings.audit_mirror is not None, **policy_facts(guard),
    }  # fmt: skip


class AuditNumbers:
    """For `/metrics`."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    def collect(self) -> Iterable[Metric]:
        numbers = self._log.numbers()
        yield CounterMetricFamily(
            "hanok_audit_entries", "Entries that are on the disk", value=numbers.entries
        )
        yield CounterMetricFamily("hanok_audit_commits", "Transactions of the audit", value=numbers.commits)
        yield CounterMetricFamily("hanok_audit_commit_seconds", "Time in them", value=numbers.commit_seconds)
        yield CounterMetricFamily("hanok_audit_failures", "Transactions that failed", value=numbers.failures)
        yield CounterMetricFamily("hanok_audit_lost", "Entries that were only counted", value=numbers.lost)
        yield CounterMetricFamily(
            "hanok_audit_contents_left_out", "Entries without their content", value=numbers.left_out
        )
        yield CounterMetricFamily(
            "hanok_audit_mirror_failures",
            "Checkpoints that could not be written",
            value=numbers.mirror_failures,
        )
        yield GaugeMetricFamily(
            "hanok_audit_waiting", "Entries that wait for the disk", value=numbers.waiting
        )
        yield GaugeMetricFamily("hanok_audit_size", "Entries in the log", value=numbers.size)
        yield GaugeMetricFamily("hanok_audit_signed", "Entries in the last checkpoint", value=numbers.signed)
