"""docs/performance.md, from the results alone."""

from collections.abc import Collection, Mapping
from typing import Any, Final

from benchmarks.figures import Result
from benchmarks.prose import HEAD, JOB, NOT_COMPARED
from benchmarks.sections import SECTIONS, label

LOADED: Final = ("accept", "durable", "scale", "inflight", "live")
"""Measurements that load a server for some seconds."""

NOTHING: Final = "Nothing has been measured yet.\n"


def render(results: Mapping[str, Result], pictures: Collection[str] = ()) -> str:
    """The page.

    :param results: by the names of the measurements; those that are missing are left out.
    :param pictures: names of files beside the page that are there to be shown.
    """
    parts = [HEAD]
    if not results:
        parts.append(NOTHING)
    parts += [JOB]
    for name, section in SECTIONS.items():
        if name in results:
            parts.append("\n".join(section(results[name]["records"])))
            parts += [f"![{name}]({picture})\n" for picture in pictures if picture.endswith(f"-{name}.svg")]
    parts += ["\n".join(failures(results)), "\n".join(where(results)), NOT_COMPARED]
    return "\n".join(part for part in parts if part)


def failures(results: Mapping[str, Result]) -> list[str]:
    """What was left out, and which runs have failed."""
    lines = []
    for name, result in results.items():
        lines += [f"- {name}, {label(peer)}: left out, {why}" for peer, why in result["skipped"].items()]
        lines += [
            f"- {name}, {label(record['peer'])}, run {record['run']}: {record['error']}"
            for record in result["records"]
            if "error" in record
        ]
    return ["## What failed, and what was left out", "", *lines, ""] if lines else []


def where(results: Mapping[str, Result]) -> list[str]:
    """The machine and the versions: said once where all results agree, else of each."""
    said: dict[str, list[str]] = {}
    for name, result in results.items():
        said.setdefault(described(result), []).append(f"{name} ({result['date']})")
    if not said:
        return []
    lines = ["## The machine and the versions", ""]
    for text, names in said.items():
        lines += [f"{', '.join(names)}:", "", text, ""]
    loads = ", ".join(f"{name} {result['machine']['load_before']}" for name, result in results.items())
    lines += [f"How busy the machine was just before each (load average of a minute): {loads}.", ""]
    amounts = "; ".join(f"{name} {amount(name, result)}" for name, result in results.items())
    return [*lines, f"How much of each: {amounts}.", ""]


def amount(name: str, result: Result) -> str:
    """Runs, and seconds of load where there is one."""
    settings = result["settings"]
    count = max((record["run"] for record in result["records"]), default=0)
    runs = "1 run" if count == 1 else f"{count} runs"
    if name not in LOADED:
        return runs
    return f"{runs}, {settings['seconds']} s after {settings['warm_up']} s"


def described(result: Result) -> str:
    """Two sentences on machine and versions."""
    machine: dict[str, Any] = result["machine"]
    found = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    note = ""
    if machine["file_system"] == "tmpfs":
        note = " That is memory: no sync was measured."
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB, "
        f"{machine['system']}, Linux {machine['kernel']}; the stores on {machine['file_system']}.{note}"
        f"\n\n{found}."
    )
