"""Follows paths with httpx-sse: ``python -m tests.faults.follow_httpx http://127.0.0.1:8080``.

Standard input has a path a line, also later ones; standard output gets a line of JSON for each event, for
each connection (``open``) and for what is over (``end``).
"""

import asyncio
import json
import sys

import httpx
from httpx_sse import aconnect_sse

PAUSE = 0.5
SILENCE = 45


def tell(path: str, event: str, identity: str = "", **data: object) -> None:
    """One line."""
    print(json.dumps({"path": path, "event": event, "id": identity, "data": data}), flush=True)


async def follow(client: httpx.AsyncClient, path: str) -> None:
    """Connect again until all was told."""
    last = ""
    while True:
        headers = {"Last-Event-ID": last} if last else {}
        try:
            async with aconnect_sse(client, "GET", path, headers=headers) as source:
                if source.response.status_code == 204:
                    tell(path, "end")
                    return
                if source.response.status_code == 200:
                    last = last or source.response.headers["last-event-id"]
                    tell(path, "open")
                    async for event in source.aiter_sse():
                        last = event.id or last
                        tell(path, event.event, event.id, **event.json())
        except httpx.TransportError:
            pass
        await asyncio.sleep(PAUSE)


async def main(base: str) -> None:
    """Read paths, and follow them all at once."""
    client = httpx.AsyncClient(
        base_url=base,
        limits=httpx.Limits(max_connections=None),
        timeout=httpx.Timeout(SILENCE, pool=None),
    )
    async with client, asyncio.TaskGroup() as group:
        while path := await asyncio.to_thread(sys.stdin.readline):
            group.create_task(follow(client, path.strip()))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
