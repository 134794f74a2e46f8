"""`hanok guard watermark`: keys of the mark, and whether a text carries it, without a server."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from hanok.errors import ConfigError, InputError
from hanok.reporting import table

if TYPE_CHECKING:
    from hanok.store.database import Store
    from hanok.tokens.watermark import Watermark

Files = Annotated[tuple[Path, ...], tyro.conf.UseAppendAction]


def detect(
    file: Annotated[Path, tyro.conf.Positional], model: Path = Path("runs/quickstart"), key: Files = (),
    store: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Whether a text carries the watermark of this deployment, and where.

    Args:
        file: text in UTF-8; - for standard input.
        model: whose answer it may be: a model directory or a run. Its tokeniser reads the text.
        key: file of `hanok guard watermark export`; several times for several. Default: all keys of the store.
        store: the database, a file or postgresql://USER@HOST/NAME; default: that of the model.
    """
    from hanok.cli.places import open_store
    from hanok.guard.watermark import described, detect_any
    from hanok.recipes.runs import servable_model
    from hanok.tokens.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(servable_model(model))
    if key:
        watermarks = [_read_key(path) for path in key]
    else:
        with open_store(store, model) as opened:
            watermarks = _of_store(opened)
    if not watermarks:
        raise InputError(
            "there is no watermark key", remedy="a server whose policy marks makes one; or give --key"
        )
    ids = tokenizer.encode(_text(file))
    found = detect_any(ids, watermarks)
    result = {**described(found), "key": found.key_id, "p_value": found.p_value, **asdict(found)}
    rows = [("whole", *_cells(found.whole))]
    if found.window is not None:
        rows.append((f"best of {found.windows} windows", *_cells(found.window)))
    title = f"{result['verdict']}, p = {found.p_value:.3g} (key {found.key_id})"
    table(title, ("part", "tokens", "tested", "green", "z", "p"), rows)
    return result


def keys(store: str | None = None, served: Path | None = None) -> dict[str, Any]:
    """The keys that have marked, the newest last; never their secrets.

    Args:
        store: the database, a file or postgresql://USER@HOST/NAME; default: that of the served model.
        served: the model or run whose database is meant; default runs/quickstart.
    """
    from hanok.cli.places import open_store
    from hanok.store.watermark_keys import WatermarkKeys

    with open_store(store, served) as opened:
        found = WatermarkKeys(opened).all()
    shown = [{name: value for name, value in asdict(key).items() if name != "nonce"} for key in found]
    table(
        "watermark keys",
        ("id", "gamma", "width", "retired"),
        [(k.id, k.gamma, k.width, k.retired is not None) for k in found],
    )
    return {"keys": shown}


def rotate(
    store: str | None = None, served: Path | None = None, audit_dir: Path | None = None
) -> dict[str, Any]:
    """A new key, made as the last one was; running servers mark with it after their next reload (SIGHUP). Old keys still detect.

    Args:
        store: the database, a file or postgresql://USER@HOST/NAME; default: that of the served model.
        served: the model or run whose database is meant; default runs/quickstart.
        audit_dir: folder of the audit; default: where the last server on this store kept it.
    """
    from hanok.cli.places import audit_of, open_store
    from hanok.server.auditing.trail import Trail
    from hanok.store.watermark_keys import WatermarkKeys

    with open_store(store, served) as opened:
        trail, held = Trail(audit_of(opened, audit_dir)), WatermarkKeys(opened)
        before = held.current()
        if before is None:
            raise InputError(
                "nothing has marked yet", remedy="a server whose policy marks makes the first key"
            )
        trail.ready()
        key = held.create(gamma=before.gamma, width=before.width)
        trail.sure("watermark.key", target=key.id, facts={"replaces": before.id})
    print(f"{key.id} in the place of {before.id}; send SIGHUP to running servers", file=sys.stderr)
    return {"id": key.id, "replaces": before.id}


def export(
    identifier: Annotated[str, tyro.conf.Positional], out: Path, store: str | None = None, served: Path | None = None,
    audit_dir: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write a key to a file, so that another machine can detect its mark. Whoever has the file can forge the mark.

    Args:
        identifier: of the key.
        out: file to make; only its owner may read it.
        store: the database, a file or postgresql://USER@HOST/NAME; default: that of the served model.
        served: the model or run whose database is meant; default runs/quickstart.
        audit_dir: folder of the audit; default: where the last server on this store kept it.
    """
    from hanok.cli.places import audit_of, open_store
    from hanok.server.auditing.trail import Trail
    from hanok.server.identity.directory import Directory
    from hanok.server.protection.watermarks import watermark_of
    from hanok.store.watermark_keys import WatermarkKeys

    if out.exists():
        raise ConfigError(f"{out} is there already", remedy="name another file")
    with open_store(store, served) as opened:
        mark = watermark_of(WatermarkKeys(opened).find(identifier), Directory(opened).sign)
        trail = Trail(audit_of(opened, audit_dir))
        trail.ready()
        trail.sure("watermark.exported", target=identifier)
    values = {"id": mark.key_id, "key": mark.key.hex(), "gamma": mark.gamma, "width": mark.width}
    with os.fdopen(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")
    print(f"{out}: keep it secret", file=sys.stderr)
    return {"id": identifier, "path": str(out)}


def _of_store(store: Store) -> list[Watermark]:
    from hanok.server.identity.directory import Directory
    from hanok.server.protection.watermarks import watermark_of
    from hanok.store.watermark_keys import WatermarkKeys

    sign = Directory(store).sign
    return [watermark_of(key, sign) for key in WatermarkKeys(store).all()]


def _read_key(path: Path) -> Watermark:
    from hanok.tokens.watermark import Watermark

    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Watermark(
            key=bytes.fromhex(values["key"]),
            key_id=values["id"],
            gamma=values["gamma"],
            width=values["width"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no watermark key ({error})", remedy="`hanok guard watermark export` writes them"
        ) from error


def _text(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read ({error})", remedy="give a text in UTF-8") from error


def _cells(count: Any) -> tuple[str, int, int, str, str]:
    return f"{count.start}-{count.end}", count.tested, count.green, f"{count.z:.2f}", f"{count.p_value:.3g}"
