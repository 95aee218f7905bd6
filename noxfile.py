"""What is checked, each in an environment of its own: ``nox``, or ``nox -s tests``."""

import json
from pathlib import Path
from typing import Final
from zipfile import ZipFile

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "types", "tests", "docs"]
nox.options.error_on_missing_interpreters = True

FLOOR: Final = 95
"""Percent of the lines and of the branches that tests have to reach in each of `FLOORED`."""

FLOORED: Final = (
    *("model", "problems", "wire", "headers", "queries", "submissions", "acceptance"),
    *("runner", "attempts", "claims", "seats", "steps"),
    *("channel", "heads", "incoming", "request", "deadlines", "dispatch"),
    *(
        "store",
        "starting",
        "changing",
        "writer",
        "statements",
        "outboxstatements",
        "sharedstatements",
        "rows",
        "tables",
        "sqlite",
        "sqlitefile",
    ),
)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests, and see how much of the code they reach; or those that are named."""
    session.install(".[test]")
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "twisted.trial", *(session.posargs or ["tests"]))
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")
    if not session.posargs:
        check_floors(session)


@nox.session
def oldest(session: nox.Session) -> None:
    """Run the tests with the oldest version of each dependency that setup.cfg allows."""
    session.install("uv")
    session.run("uv", "pip", "install", "--quiet", "--resolution", "lowest-direct", ".[test]")
    session.run("python", "-m", "twisted.trial", *(session.posargs or ["tests"]))


def check_floors(session: nox.Session) -> None:
    """Fail where a module that keeps the promises is not reached enough."""
    report = Path(session.create_tmp(), "coverage.json").absolute()
    session.run("coverage", "json", "--quiet", "-o", str(report))
    files = json.loads(report.read_text())["files"]
    low = []
    for module in FLOORED:
        summary = files[f"asynctask/{module}.py"]["summary"]
        lines = percent(summary["covered_lines"], summary["num_statements"])
        branches = percent(summary["covered_branches"], summary["num_branches"])
        if min(lines, branches) < FLOOR:
            low.append(f"{module}: {lines:.0f} % of the lines, {branches:.0f} % of the branches")
    if low:
        session.error(f"Below {FLOOR} %: " + "; ".join(low))


def percent(part: int, whole: int) -> float:
    """All of nothing is everything."""
    return 100 * part / whole if whole else 100.0


@nox.session
def lint(session: nox.Session) -> None:
    """Check the code's style and its format."""
    session.install("ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types."""
    session.install(".[test,dev]")
    session.run("mypy")
    session.run("mypy", "noxfile.py")


@nox.session
def docs(session: nox.Session) -> None:
    """Check the news and the documents; with ``-- origin/main``, that the news has a fragment."""
    session.install(".[test]", "towncrier")
    session.run("towncrier", "build", "--draft", "--version", "next")
    if session.posargs:
        session.run("towncrier", "check", "--compare-with", *session.posargs)
    session.run("python", "-m", "twisted.trial", "tests.test_docs", "tests.test_pages")


@nox.session
def faults(session: nox.Session) -> None:
    """Kill the service again and again under load, and look for what it had promised. Long."""
    session.install(".[test]")
    settings = session.posargs or ["--kills", "50", "--rate", "200"]
    session.run("python", "-m", "tests.faults.kill", *settings)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure us and our peers, and write docs/performance.md. Hours; ``-- --quick``: two minutes."""
    session.install(".", "-r", "benchmarks/requirements.txt")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Build the wheel and the sdist, and install each where nothing else is."""
    session.install("build")
    folder = Path(session.create_tmp()).absolute()
    dist = folder / "dist"
    session.run("rm", "-rf", str(dist), external=True)
    session.run("python", "-m", "build", "--outdir", str(dist))
    [wheel], [sdist] = dist.glob("*.whl"), dist.glob("*.tar.gz")
    check_wheel(session, wheel)
    session.chdir(folder)
    for package in (wheel, sdist):
        session.run("python", "-m", "venv", "--clear", "fresh")
        session.run("fresh/bin/pip", "install", "--quiet", str(package), external=True)
        shown = session.run("fresh/bin/twistd", "--help", external=True, silent=True)
        if "asynctask" not in str(shown):
            session.error(f"{package.name}: twistd does not list asynctask")


def check_wheel(session: nox.Session, wheel: Path) -> None:
    """Fail where the wheel would break Twisted, or hide the plugin, or lacks its types."""
    names = set(ZipFile(wheel).namelist())
    never = {"twisted/__init__.py", "twisted/plugins/__init__.py", "twisted/plugins/dropin.cache"}
    always = {"twisted/plugins/asynctask_plugin.py", "asynctask/py.typed"}
    if wrong := sorted(names & never | always - names):
        session.error(f"{wheel.name} has what it must not, or lacks what it must: {wrong}")
