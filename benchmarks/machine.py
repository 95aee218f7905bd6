"""What it was measured on, and with which versions."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from benchmarks.catalog import BIN, ROOT
from benchmarks.postgres import program

PACKAGES: Final = (
    "Twisted",
    "klein",
    "SQLAlchemy",
    "msgspec",
    "fastapi",
    "starlette",
    "pydantic",
    "uvicorn",
    "uvloop",
    "httptools",
    "huey",
    "arq",
    "redis",
    "procrastinate",
    "pgqueuer",
    "psycopg",
    "asyncpg",
)

PROGRAMS: Final = {
    "wrk": (("wrk", "-v"), r"wrk (?:debian/)?(\S+)"),
    "Go": (("go", "version"), r"go version go(\S+)"),
    "redis-server": (("redis-server", "--version"), r"v=(\S+)"),
    "k6": ((str(BIN / "k6"), "version"), r"k6(?:\.exe)? v?(\S+)"),
}


def machine(folder: Path) -> dict[str, Any]:
    """The machine.

    :param folder: where the stores lie.
    """
    return {
        "processor": _field(Path("/proc/cpuinfo"), "model name"),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "kernel": platform.release(),
        "system": _system(),
        "file_system": file_system(folder, Path("/proc/mounts").read_text()),
    }


def versions() -> dict[str, str]:
    """The versions of all that has to do with it; what is not installed is left out."""
    import sqlite3

    found = {"asynctask": _own(), "Python": _python(), "SQLite": sqlite3.sqlite_version}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    postgres = {"PostgreSQL": ((program("postgres"), "--version"), r"PostgreSQL\) (\S+)")}
    for name, (command, pattern) in (PROGRAMS | postgres).items():
        if match := re.search(pattern, _output(command)):
            found[name] = match[1]
    return found


def today() -> str:
    """The date, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%d")


def file_system(folder: Path, mounts: str) -> str:
    """The kind of file system that a folder is on, by ``/proc/mounts``."""
    path = str(folder.resolve())
    best, kind = "", "unknown"
    for line in mounts.splitlines():
        _, place, this, *_ = line.split()
        inside = path == place or path.startswith(place.rstrip("/") + "/")
        if inside and len(place) >= len(best):
            best, kind = place, this
    return kind


def _python() -> str:
    """The version, and who has built it: how it was is worth a sixth of the speed."""
    builder = "the system's" if sys.base_prefix == "/usr" else "not the system's"
    return f"{platform.python_version()} ({builder})"


def _own() -> str:
    commit = _output(("git", "-C", str(ROOT), "describe", "--always", "--dirty")).strip()
    own = version("asynctask")
    return f"{own} ({commit})" if commit else own


def _output(command: Sequence[str]) -> str:
    try:
        # wrk ends with 1 where it tells its version.
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:
        return ""


def _field(path: Path, name: str) -> str:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"
