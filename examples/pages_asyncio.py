r"""Fetch several pages at once, with httpx, on an asyncio loop: their sizes and titles.

In this folder, after ``pip install httpx``:

    twistd -n asynctask --tasks pages_asyncio

    curl -H 'Content-Type: application/json' -H 'Prefer: wait=20' localhost:8080/api/tasks \
         -d '{"name": "look", "kind": "pages_asyncio",
              "input": {"urls": ["https://example.com/", "https://example.com/none"]}}'

Whoever may post to the service makes it fetch what this machine can reach.
"""

import asyncio
import html
import re
from typing import Annotated, Any

import httpx
from msgspec import Meta

from asynctask import Context, task

AT_ONCE = 5
SECONDS = 10
HEAD = 65_536
"""Bytes of a page in which its title is looked for."""

TITLE = re.compile(r"<title[^>]*>(.*?)</title", re.IGNORECASE | re.DOTALL)

Url = Annotated[str, Meta(pattern="^https?://")]
Urls = Annotated[list[Url], Meta(min_length=1, max_length=100)]


class NotFetchedError(Exception):
    """A page that may be there in a moment."""


@task(place="asyncio", retries=3, timeout=60, backoff=lambda attempt: attempt / 4)
async def pages_asyncio(urls: Urls, *, context: Context) -> list[dict[str, Any]]:
    """Fetch pages, five at a time; if a site does not answer, all of it is tried again."""
    seats = asyncio.Semaphore(AT_ONCE)
    fetched = 0

    async def fetch(url: str) -> dict[str, Any]:
        nonlocal fetched
        async with seats, asyncio.timeout(SECONDS):
            page = await look(client, url)
        fetched += 1
        context.progress(fetched, len(urls), url)
        return page

    async with httpx.AsyncClient(follow_redirects=True, timeout=SECONDS) as client:
        # The end of all of them: when this attempt has ended, nothing of it goes on.
        outcomes = await asyncio.gather(*map(fetch, urls), return_exceptions=True)
    pages = []
    for url, outcome in zip(urls, outcomes, strict=True):
        if isinstance(outcome, BaseException):
            raise NotFetchedError(f"{url}: {outcome!r}")
        pages.append(outcome)
    return pages


async def look(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    """Fetch one page, and keep no more of it than its head."""
    head, size = bytearray(), 0
    async with client.stream("GET", url) as response:
        async for data in response.aiter_bytes():
            size += len(data)
            head.extend(data[: HEAD - len(head)])
    if response.status_code >= 500:
        raise NotFetchedError(f"status {response.status_code}")
    found = TITLE.search(head.decode("utf-8", "replace"))
    title = html.unescape(found[1]).strip() if found else None
    return {"url": url, "status": response.status_code, "bytes": size, "title": title}
