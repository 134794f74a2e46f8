"""Defaults, then a file, then the environment, then flags; and reading them again while the server runs."""

from __future__ import annotations

import logging
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from hanok.cli import _run
from hanok.errors import ConfigError
from hanok.server.operations.config import ServeSettings, changes, keep_fixed, resolve_settings
from hanok.server.operations.service import Operations


def written(folder: Path, text: str) -> Path:
    file = folder / "serve.toml"
    file.write_text(text)
    return file


def test_who_wins(tmp_path: Path) -> None:
    file = written(tmp_path, 'port = 1\ngrace = 1\nlog_level = "debug"\nadapter = ["a=b"]\n')
    environment = {"HANOK_SERVE_PORT": "2", "HANOK_SERVE_GRACE": "2.5", "PORT": "9"}
    settings = resolve_settings({"port": 3}, file=file, environment=environment)
    assert (settings.port, settings.grace, settings.log_level, settings.host) == (
        3,
        2.5,
        "debug",
        "127.0.0.1",
    )
    assert settings.adapter == ("a=b",)
    assert resolve_settings({}, environment={}) == ServeSettings()
    for name in [one.name for one in fields(ServeSettings) if isinstance(one.default, tuple)]:
        words = ("flag", "block") if name == "review_flags" else ("a=b", "c=d")
        found = resolve_settings({}, environment={f"HANOK_SERVE_{name.upper()}": ",".join(words)})
        assert tuple(map(str, getattr(found, name))) == words


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1", 'unknown key "prot"; did you mean "port"'),
        ("port = [1]", "port = \\[1\\]; "),
        ('weights = "int3"', "weights = 'int3'"),
        ("grace = -1", "grace = -1"),
        ("max_body_mib = 0", "max_body_mib = 0"),
        ('tls_cert = "a.pem"', "tls_cert and tls_key belong together"),
        ("port = ", "is not TOML"),
    ],
)
def test_what_a_file_may_not_say(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_settings({}, file=written(tmp_path, text), environment={})


def test_what_the_environment_may_not_say() -> None:
    with pytest.raises(ConfigError, match='unknown key "HANOK_SERVE_PROT"; did you mean "HANOK_SERVE_PORT"'):
        resolve_settings({}, environment={"HANOK_SERVE_PROT": "1"})
    with pytest.raises(ConfigError, match="cannot be read"):
        resolve_settings({}, file=Path("/nowhere.toml"), environment={})


def test_what_can_change_and_what_cannot() -> None:
    old, new = ServeSettings(), ServeSettings(port=1, grace=3.0, log_level="debug")
    assert changes(old, new) == (["log_level", "grace"], ["port"])
    assert keep_fixed(old, new) == ServeSettings(grace=3.0, log_level="debug")


def test_reload(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = written(tmp_path, "grace = 1.0")

    def source() -> ServeSettings:
        return resolve_settings({}, file=file, environment={})

    operations = Operations(source(), source=source)
    taken: list[float] = []
    operations.on_reload.append(lambda new: taken.append(new.grace))
    file.write_text("grace = 7.0\nport = 1\nwrite_seconds = 3.0\nmax_body_mib = 1")
    with caplog.at_level(logging.INFO, logger="hanok"):
        told = operations.reload()
    assert told == {"changed": ["grace", "write_seconds", "max_body_mib"], "needs_restart": ["port"]}
    assert (operations.lifecycle.grace, operations.guard.patience.write, taken) == (7.0, 3.0, [7.0])
    assert operations.body_limit("/v1/chat/completions") == 1 << 20
    assert operations.settings.port == 8080

    file.write_text("grace = 9.0\nmax_bodi_mib = 1")  # the old rules stay, and it is logged
    with pytest.raises(ConfigError, match="max_body_mib"):
        operations.reload()
    operations.reload_if_possible()
    assert operations.lifecycle.grace == 7.0
    assert "the settings stay as they were" in caplog.text


def test_what_others_refuse_is_not_taken(tmp_path: Path) -> None:
    operations = Operations(ServeSettings(), source=lambda: ServeSettings(grace=5.0))

    def refuse(_new: ServeSettings) -> None:
        raise ConfigError("a price below zero")

    operations.on_reload.append(refuse)
    with pytest.raises(ConfigError, match="price"):
        operations.reload()
    assert operations.lifecycle.grace == 20.0


def test_reload_over_http(server: Any) -> None:
    answer = server.http.post("/admin/reload")
    assert answer.status_code == 400  # this one was not started with settings
    assert "no settings to read again" in answer.json()["error"]["message"]


def test_check_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, "port = 12")
    monkeypatch.setenv("HANOK_SERVE_GRACE", "4")
    assert _run(["serve", "--config", str(file), "--check-config", "--host", "::1"]) == 0
    said = capsys.readouterr().err
    assert "port = 12\n" in said
    assert "grace = 4.0\n" in said
    assert "host = ::1\n" in said
    file.write_text("prot = 12")
    assert _run(["serve", "--config", str(file), "--check-config"]) == 2
    assert 'did you mean "port"?' in capsys.readouterr().err


def test_every_setting_is_a_flag() -> None:
    import dataclasses
    import inspect

    from hanok.cli.serve import FLAGS, serve

    assert set(FLAGS) == {one.name for one in dataclasses.fields(ServeSettings)}
    assert set(FLAGS) | {"config", "check_config"} == set(inspect.signature(serve).parameters)
