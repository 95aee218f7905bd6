"""A small file system of its own, and how to fill it to the last byte. It takes root."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BLOCKS = (65_536, 4_096, 1)


def unavailable() -> str | None:
    """Why no tmpfs can be mounted here, or None."""
    if os.geteuid() != 0:
        return "only root may mount a tmpfs"
    try:
        with small_disk("1m"):
            return None
    except subprocess.CalledProcessError as error:
        return f"no tmpfs may be mounted: {error.stderr.strip()}"


@contextmanager
def small_disk(size: str) -> Iterator[Path]:
    """The empty root of a file system of `size`, in the notation of mount."""
    with tempfile.TemporaryDirectory() as folder:
        _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
        try:
            yield Path(folder)
        finally:
            _run("umount", "--lazy", folder)


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """Leave no byte free on the disk of `folder` meanwhile."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for block in BLOCKS:
            _write_until_full(file.fileno(), bytes(block))
    try:
        yield
    finally:
        filler.unlink()


def _write_until_full(descriptor: int, block: bytes) -> None:
    try:
        while True:
            os.write(descriptor, block)
    except OSError:
        return


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
