"""`hanok audit report`: what standards ask for, with the state of each requirement as settings, policy and audit show it."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanok.errors import ConfigError
from hanok.reporting import table

if TYPE_CHECKING:
    from hanok.server.assurance.checks import Facts
    from hanok.server.operations.config import ServeSettings
    from hanok.store.audit.place import AuditPlace


def report(
    out: Path = Path("reports/assurance"), config: Path | None = None, guard: str = "", tenant: str = "default",
    audit_dir: Path | None = None, store: str | None = None, served: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write a page (and JSON) with every requirement of OWASP AISVS 1.0 and every risk of OWASP's Top 10 for LLM applications
    2026: its id, its state, why, and which tests answer for it. Reads the whole audit.

    Args:
        out: directory for report.html and report.json.
        config: the TOML file of `hanok serve`; variables HANOK_SERVE_... count too.
        guard: the policy; by default that of the settings.
        tenant: whose rules.
        audit_dir: folder of the audit; default: that of the settings, or beside the store.
        store: the database, a file or postgresql://USER@HOST/NAME; default: that of the settings, or of the served model.
        served: the model or run whose audit is meant; default runs/quickstart.
    """
    from hanok.cli.audit import place_of_audit
    from hanok.guard.policy import read_policy
    from hanok.server.assurance.checks import STATES, Facts
    from hanok.server.assurance.report import counted, judged, write
    from hanok.server.operations.config import resolve_settings

    settings = _settings(resolve_settings({}, file=config), guard, served)
    facts = Facts(settings=settings, policy=read_policy(settings.guard), tenant=tenant)
    if settings.audit:
        place = place_of_audit(audit_dir or settings.audit_dir, store or settings.store, settings.model)
        facts = _with_audit(facts, place) if place.exists else facts
    rows = judged(facts)
    write(rows, facts, out)
    table("requirements", ("standard", "level", *STATES), counted(rows))
    print(f"{out / 'report.html'}", file=sys.stderr)
    return {
        "report": str(out / "report.html"),
        "controls": [
            {"id": row.id, "level": row.control.level or None, "state": row.state, "why": row.why} for row in rows
        ],
    }  # fmt: skip


def _settings(settings: ServeSettings, guard: str, served: Path | None) -> ServeSettings:
    changed: dict[str, Any] = {"guard": guard} if guard else {}
    if served is not None:
        changed["model"] = served
    if (guard or settings.guard) == "":
        raise ConfigError("no policy", remedy='name a file, "default" or "off"')
    return dataclasses.replace(settings, **changed)


def _with_audit(facts: Facts, place: AuditPlace) -> Facts:
    """Everything in it is read once to verify it, and once to count it."""
    from hanok.cli.attack import KIND
    from hanok.store.audit.keys import load_verifier
    from hanok.store.audit.reader import Reader, Wanted
    from hanok.store.audit.verify import verify

    outside = [
        path for path in (place.notes, facts.settings.audit_mirror) if path is not None and path.exists()
    ]
    with Reader(place) as reader:
        whole = bool(verify(reader, load_verifier(place.folder), outside=outside).plain()["ok"])
        entries = reader.count_kinds()
        attacked, private = (
            next(iter(reader.list(Wanted(kind=kind), limit=1)), None) for kind in (KIND, "privacy.audit")
        )
    return dataclasses.replace(facts, audit=whole, entries=entries, attacked=attacked, private=private)
