r"""Fetch several pages at once, with treq, on Twisted's reactor: their sizes and titles.

In this folder, after ``pip install treq``:

    twistd -n asynctask --tasks pages

    curl -H 'Content-Type: application/json' -H 'Prefer: wait=20' localhost:8080/api/tasks \
         -d '{"name": "look", "kind": "pages",
              "input": {"urls": ["https://example.com/", "https://example.com/none"]}}'

Whoever may post to the service makes it fetch what this machine can reach.
"""

import html
import re
from typing import Annotated, Any, NoReturn

import treq
from msgspec import Meta
from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore

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


@task(retries=3, timeout=60, backoff=lambda attempt: attempt / 4)
async def pages(urls: Urls, *, context: Context) -> list[dict[str, Any]]:
    """Fetch pages, five at a time; if a site does not answer, all of it is tried again."""
    seats = DeferredSemaphore(AT_ONCE)
    fetched = 0

    async def fetch(url: str) -> dict[str, Any]:
        nonlocal fetched
        page = await Deferred.fromCoroutine(look(url)).addTimeout(SECONDS, context.clock, too_slow)
        fetched += 1
        context.progress(fetched, len(urls), url)
        return page

    # The end of all of them: when this attempt has ended, nothing of it goes on.
    outcomes = await DeferredList([seats.run(fetch, url) for url in urls], consumeErrors=True)
    for url, (succeeded, outcome) in zip(urls, outcomes, strict=True):
        if not succeeded:
            raise NotFetchedError(f"{url}: {outcome.getErrorMessage()}")
    return [page for _, page in outcomes]


def too_slow(_: object, seconds: float) -> NoReturn:
    raise NotFetchedError(f"took longer than {seconds} s")


async def look(url: str) -> dict[str, Any]:
    """Fetch one page, and keep no more of it than its head."""
    head, size = bytearray(), 0

    def take(data: bytes) -> None:
        nonlocal size
        size += len(data)
        head.extend(data[: HEAD - len(head)])

    response = await treq.get(url, unbuffered=True)
    await treq.collect(response, take)
    if response.code >= 500:
        raise NotFetchedError(f"status {response.code}")
    found = TITLE.search(head.decode("utf-8", "replace"))
    title = html.unescape(found[1]).strip() if found else None
    return {"url": url, "status": response.code, "bytes": size, "title": title}
