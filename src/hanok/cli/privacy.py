"""`hanok audit privacy`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from hanok.errors import AuditError, HanokError
from hanok.evaluation.privacy.config import PrivacyConfig
from hanok.reporting import table


def privacy(
    model: Annotated[Path, tyro.conf.Positional],
    shards: Path,
    out: Path,
    reference: Path | None = None,
    canaries: Path | None = None,
    config: PrivacyConfig = PrivacyConfig(),
    store: str | None = None,
    audit_dir: Path | None = None,
) -> dict[str, Any]:
    """What a model gives away of its training texts; exit code 1 if a bar is missed, one cannot be judged, or the control
    was not found.

    Args:
        model: a model directory, or a run.
        shards: the token shards that it was trained on, with splits that it was not.
        out: directory to make.
        reference: a model of the same tokeniser that saw none of these texts, for one attack more.
        canaries: the corpus of `hanok data canaries` that is among what it was trained on.
        config: how much is looked at, and the bars.
        store: the database whose audit gets the result; default: that of the model.
        audit_dir: folder of the audit; default: where the last server on this store kept it.
    """
    from hanok.evaluation.privacy.audit import audit_privacy, metrics
    from hanok.recipes.runs import servable_model

    directory = servable_model(model)
    artefact, findings = audit_privacy(
        config, model=directory, shards=shards, out=out, canaries=canaries,
        reference=None if reference is None else servable_model(reference),
    )  # fmt: skip
    found = metrics(findings)
    table(f"privacy: {findings.verdict}", ("measure", "value"), list(found.items()))
    for line in (*findings.reasons, *findings.unjudged, *findings.warnings):
        print(line, file=sys.stderr)
    print(f"report: {artefact.path / 'report.html'}", file=sys.stderr)
    entry = _enter(store, directory, audit_dir, {**found, "report": artefact.hash})
    result = {"path": str(artefact.path), "verdict": findings.verdict, "metrics": found, "audit_entry": entry}
    if findings.verdict == "broken":
        raise AuditError(
            "the audit is broken: a model that knows its texts by heart was not found out",
            remedy="give more or longer texts; nothing is said about the model", report=result,
        )  # fmt: skip
    if findings.verdict == "failed":
        raise AuditError(
            f"the model gives away more than it may: {findings.reasons[0]}",
            remedy="fewer epochs, duplicates taken out, or a waiver in writing", report=result,
        )  # fmt: skip
    if findings.verdict == "incomplete":
        raise AuditError(
            f"the audit is incomplete: {findings.unjudged[0]}",
            remedy="`hanok data canaries` with 1 among its --repetitions, and the whole file that it wrote", report=result,
        )  # fmt: skip
    return result


def _enter(store: str | None, model: Path, audit_dir: Path | None, facts: dict[str, Any]) -> bool:
    """Into the audit of the servers of this store, if they keep one."""
    from hanok.artefacts import open_artefact
    from hanok.cli.places import audit_of, store_place
    from hanok.server.auditing.trail import Trail
    from hanok.store.connection import is_url
    from hanok.store.database import Store

    place = store_place(store, model)
    if not is_url(place) and not Path(place).exists():
        print("no server has kept a store for this model: the result is in no audit", file=sys.stderr)
        return False
    with Store(place) as opened:
        trail = Trail(audit_of(opened, audit_dir))
        if trail.log is None:
            print("the servers of this store keep no audit: the result is in none", file=sys.stderr)
            return False
        try:
            trail.sure("privacy.audit", target=open_artefact(model, verify=False).hash, facts=facts)
        except HanokError as error:
            raise AuditError(
                f"the result could not be written into the audit ({error})", report=facts
            ) from error
    return True
