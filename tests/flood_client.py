"""
A client that sends as much as it can, in a process of its own.

    python -m tests.flood_client URL KEY CONNECTIONS ENTRIES

It never heeds Retry-After. Once every connection has had an answer it prints a line; when its standard input ends it
prints how many answers of each status it got, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter

import httpx

ENTRY = {"user_id": "ann", "action": "UPDATE", "resource_type": "invoice", "resource_id": "7", "details": "x" * 60}


async def main(url: str, key: str, connections: int, entries: int) -> None:
    body = json.dumps([ENTRY] * entries).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    answers: Counter[int] = Counter()
    over = asyncio.Event()
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30, trust_env=False) as http:

        async def flood() -> None:
            while not over.is_set():
                answers[(await http.post("/api/v1/logs/bulk", content=body)).status_code] += 1

        floods = [asyncio.create_task(flood()) for _ in range(connections)]
        while sum(answers.values()) < connections:  # noqa: ASYNC110 - a counter tells no event
            await asyncio.sleep(0.01)
        print("flooding", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        over.set()
        await asyncio.gather(*floods)
    print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
