"""Fixtures shared by every room."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny_training
from hypothesis import settings

# the machine may be busy; where a failure cannot be looked into at once, every run tries the same examples
settings.register_profile("hanok", deadline=None, derandomize="HANOK_CI" in os.environ)
settings.load_profile("hanok")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module", autouse=True)
def what_is_there_stays() -> None:
    """Training and serving collect garbage; they need not look through all that earlier files have imported each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data sets; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("HANOK_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs the public data sets: no folder at {folder} (set HANOK_DATA)")
    return folder


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the tiny run."""
    return tiny_training.write_tiny_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Callable[[], str]]:
    """Makes empty databases of a PostgreSQL of our own, reached by a socket alone; skipped where its programs are absent."""
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/usr/lib/postgresql/none/bin"))
    if not (programs / "postgres").is_file() or importlib.util.find_spec("psycopg") is None:
        pytest.skip(f"needs PostgreSQL's programs and psycopg: none in {programs.parent.parent}")
    folder = Path(tempfile.mkdtemp(prefix="hanok-pg-", dir="/tmp"))  # a socket's path must be short
    user = _unprivileged()  # PostgreSQL refuses to run as root
    if user is not None:
        shutil.chown(folder, user)
    data, database = folder / "data", itertools.count()
    subprocess.run(
        [programs / "initdb", "-D", data, "-U", "hanok", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8"],
        user=user, cwd="/", check=True, capture_output=True,
    )  # fmt: skip
    server = subprocess.Popen(
        [programs / "postgres", "-D", data, "-k", folder, "-h", "", "-F", "-c", "max_connections=60"],
        user=user, cwd="/", stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def url(name: str) -> str:
        return f"postgresql://hanok@/{name}?host={folder}"

    def create() -> str:
        name = f"test{next(database)}"
        psycopg = importlib.import_module("psycopg")
        with psycopg.connect(url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return url(name)

    try:
        deadline = time.monotonic() + 60
        while not (folder / ".s.PGSQL.5432").exists() or _starting(url("postgres")):
            assert server.poll() is None, "PostgreSQL did not start"
            assert time.monotonic() < deadline, "PostgreSQL did not answer"
            time.sleep(0.05)
        yield create
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=30)
        shutil.rmtree(folder)


def _unprivileged() -> str | None:
    if os.getuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _starting(url: str) -> bool:
    psycopg = importlib.import_module("psycopg")
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return True
    return False
