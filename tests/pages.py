"""The pages of the project, and what stands in them."""

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
PAGES: Final = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def text(page: str) -> str:
    """A page, which is named as seen from the root."""
    return (ROOT / page).read_text("utf-8")


def blocks(page: str, language: str = "") -> list[str]:
    """The blocks of a page in one language, or in none."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text(page), re.MULTILINE | re.DOTALL)
    return [block for its, block in found if its == language]


def metric_rows() -> dict[str, str]:
    """The metrics of docs/operating.md, each with what else its row tells."""
    return dict(re.findall(r"^\| `(asynctask_\w+)` \|(.*)", text("docs/operating.md"), re.MULTILINE))
