r"""Make thumbnails of all images of a folder, with Pillow, in a process of its own.

In this folder, after ``pip install '.[processes]' Pillow`` in the one above, and with images in ``photos``:

    twistd -n asynctask --tasks thumbnails

    curl -H 'Content-Type: application/json' -H 'Prefer: wait=20' localhost:8080/api/tasks \
         -d '{"name": "holiday", "kind": "thumbnails",
              "input": {"folder": "photos", "target": "small", "size": 120}}'

Folders are those of the service: a relative path begins where it was started.
"""

from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta
from PIL import Image, ImageOps

from asynctask import Context, Permanent, task

SUFFIXES = (".gif", ".jpeg", ".jpg", ".png", ".webp")

Size = Annotated[int, Meta(ge=16, le=1024, description="Pixels of the longer side")]


@task(place="process", timeout=600)
def thumbnails(folder: str, target: str, size: Size = 200, *, context: Context) -> dict[str, Any]:
    """Make a thumbnail of each image of a folder; a broken image is reported and left out."""
    source, goal = Path(folder), Path(target)
    if not source.is_dir():
        raise Permanent(f"There is no folder '{folder}'")
    goal.mkdir(parents=True, exist_ok=True)
    if goal.samefile(source):
        raise Permanent("The thumbnails would overwrite the images: choose another target")
    images = sorted(path for path in source.iterdir() if path.suffix.lower() in SUFFIXES)
    written, broken = 0, {}
    for number, path in enumerate(images, start=1):
        try:
            written += shrink(path, goal / path.name, size)
        except Exception as error:  # A broken file can make Pillow raise anything.
            broken[path.name] = f"{type(error).__name__}: {error}"
        context.progress(number, len(images), path.name)
    return {"thumbnails": len(images) - len(broken), "bytes": written, "broken": broken}


def shrink(path: Path, target: Path, size: int) -> int:
    """Write one thumbnail; its size in bytes.

    It appears under its name when it is whole: a cancel or a timeout may kill us at any moment.
    """
    part = target.with_suffix(".part")
    with Image.open(path) as image:
        image.thumbnail((size, size))
        ImageOps.exif_transpose(image).save(part, image.format)
    part.replace(target)
    return target.stat().st_size
