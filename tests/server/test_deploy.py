"""The examples in `deploy/` fit the server and each other."""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"


def checked(config: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hanok", "serve", "--config", str(config), "--check-config"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HANOK_SERVE_")}
    return subprocess.run(command, capture_output=True, text=True, env=clean, check=False)


def test_the_settings_can_be_used_with_and_without_a_proxy(tmp_path: Path) -> None:
    text = (DEPLOY / "serve.toml").read_text(encoding="utf-8")
    behind = tmp_path / "serve.toml"
    behind.write_text(re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE), encoding="utf-8")
    assert checked(DEPLOY / "serve.toml").returncode == 0
    found = checked(behind)
    assert found.returncode == 0, found.stderr
    assert "trusted_proxy = ('127.0.0.1',)" in found.stderr + found.stdout
    behind.write_text(text + 'trusted_prox = "x"\n', encoding="utf-8")  # the control
    assert checked(behind).returncode == 2


def test_nginx_says_what_a_trusted_proxy_must() -> None:
    """As docs/guides/identity.md has it: else sign-ins are counted by the proxy's address, and cookies are not `Secure`."""
    text = (DEPLOY / "nginx.conf").read_text(encoding="utf-8")
    for header in (
        "X-Forwarded-For $proxy_add_x_forwarded_for", "X-Forwarded-Proto $scheme", "Host $host",
    ):  # fmt: skip
        assert f"proxy_set_header {header};" in text
    assert "proxy_buffering off;" in text


def test_the_parts_of_compose_find_each_other() -> None:
    parts = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    (network,) = parts["networks"]["inside"]["ipam"]["config"]
    environment = parts["services"]["hanok"]["environment"]
    assert ipaddress.ip_network(environment["HANOK_SERVE_TRUSTED_PROXY"]) == ipaddress.ip_network(
        network["subnet"]
    )
    assert (DEPLOY / parts["services"]["hanok"]["build"]["context"]).resolve() == ROOT
    for service in parts["services"].values():
        assert service["networks"] == ["inside"]
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            mounted = (DEPLOY / source).is_file() or source == "./metrics.key"
            assert mounted if source.startswith(".") else source.startswith("$") or source in parts["volumes"]
    seconds = int(parts["services"]["hanok"]["stop_grace_period"].removesuffix("s"))
    assert seconds > int(environment["HANOK_SERVE_GRACE"]) + 5


def test_the_container_is_given_all_that_it_copies() -> None:
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    copied = [
        word
        for line in re.findall(r"^COPY (?!--)(.+)$", text, re.MULTILINE)
        for word in line.split()[:-1]
    ]  # fmt: skip
    assert "src" in copied
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for name in copied:
        assert (ROOT / name).exists()
        assert name.split("/")[0] in let_in


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("unit", sorted(path.name for path in DEPLOY.glob("hanok*.service")))
def test_systemd_understands_the_units(unit: str, tmp_path: Path) -> None:
    """With the program where it is here: the paths are those of an installation."""
    for path in DEPLOY.glob("hanok*.*"):
        text = path.read_text(encoding="utf-8").replace("/opt/hanok/bin/hanok", sys.executable)
        (tmp_path / path.name).write_text(text, encoding="utf-8")

    def said(name: str) -> str:
        command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return "\n".join(line for line in done.stderr.splitlines() if name in line)

    assert said(unit) == ""
    worse = tmp_path / "worse.service"
    worse.write_text(
        (tmp_path / unit).read_text(encoding="utf-8").replace("NoNewPrivileges", "NoNewPrivilege")
    )
    assert "NoNewPrivilege" in said("worse.service")  # the control
