"""The first thing that a person sees of a server that is ready: where it is, and what to try."""

from __future__ import annotations

import asyncio
import os
import shlex
from pathlib import Path
from typing import Final

import httpx
import orjson

from audit_allinone import demo
from audit_allinone.console import command, say, tell
from audit_allinone.data_folder import DataFolder, default_folder
from audit_allinone.steps import step
from audit_allinone.visitors import DEMO_TENANT, Visitors
from audit_kit.running import Address

VISIBLE_TRIES: Final = 20
"""Seconds that the demo's entries get to reach the ledger before the welcome is printed without them."""

_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where such a server answers this machine


class Welcome:
    """Keeps the profiles, fills the demo tenant through the API, and prints the welcome, once the server listens."""

    def __init__(self, *, folder: DataFolder, visitors: Visitors, is_development: bool) -> None:
        self._folder = folder
        self._visitors = visitors
        self._is_development = is_development
        self._listening = asyncio.get_running_loop().create_future()

    def listening(self, address: Address) -> None:
        """To be told where the server listens."""
        self._listening.set_result(Address(_ANY_ADDRESS.get(address.host, address.host), address.port).url)

    async def run(self, stop: asyncio.Event) -> None:
        """The worker."""
        greeting = asyncio.create_task(self._greet())
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({greeting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if greeting.done():
                greeting.result()
            await stopping
        finally:
            greeting.cancel()
            stopping.cancel()

    async def _greet(self) -> None:
        url = await self._listening
        guest = self._visitors.guest
        self._visitors.operator.keep(url)
        guest.keep(url)
        if guest.tenant == DEMO_TENANT:
            with step("telling the demo tenant's story"):
                await self._fill_demo(url)
        say(self._text(url))

    async def _fill_demo(self, url: str) -> None:
        guest = self._visitors.guest
        entries = demo.entries(guest.made_at)
        headers = {"Authorization": f"Bearer {guest.token}", "Content-Type": "application/json"}
        async with httpx.AsyncClient(
            base_url=f"{url}/api/v1/logs", headers=headers, timeout=30, trust_env=False
        ) as client:
            last = f"/{entries[-1]['id']}"
            try:
                if (await client.get(last, params={"wait_ms": 0})).status_code != 404:
                    return
                (await client.post("/bulk", content=orjson.dumps(entries))).raise_for_status()
                for _ in range(VISIBLE_TRIES):
                    if (await client.get(last, params={"wait_ms": 1_000})).status_code == 200:
                        return
            except httpx.HTTPError as exc:
                # The server runs all the same; the next start tries again.
                tell(f"the demo tenant is not filled yet: {exc}")

    def _text(self, url: str) -> str:
        guest, auditlog = self._visitors.guest, command()
        if self._folder.profile != DataFolder(default_folder()).profile:
            auditlog = f"AUDITLOG_PROFILE={shlex.quote(_shown(self._folder.profile))} {auditlog}"
        is_demo = guest.tenant == DEMO_TENANT
        search = "search --action LOGIN --outcome failure" if is_demo else "search"
        send = "--action EXPORT --resource-type report --resource-id q3"
        lines = [
            "auditlog is ready.",
            "",
            f"  API      {url}/api/v1",
            f"  Docs     {url}/docs",
            f"  Tenant   {guest.tenant}"
            + (f", with {len(demo.entries(guest.made_at))} entries to look at" if is_demo else ""),
            f"  Token    {auditlog} token",
            f"  Data     {_shown(self._folder.path)}",
            "",
            "Try in another terminal, in this folder:",
            "",
            f"  {auditlog} {search} --limit 10",
            f'  {auditlog} send {send} --metadata \'{{"password": "hunter2"}}\'',
            f"  curl -s -H \"Authorization: Bearer $({auditlog} token)\" '{url}/api/v1/logs?limit=1'",
            "",
        ]
        if self._is_development:
            lines.append(f"Development mode: who can reach {url} can be anybody (POST /api/v1/mock-login).")
        return "\n".join([*lines, "Ctrl-C ends it; the next start goes on from here."])


def _shown(path: Path) -> str:
    """The path as it is shortest from here."""
    absolute, here = path.absolute(), Path.cwd()
    return os.path.relpath(absolute, here) if absolute.is_relative_to(here) else str(absolute)
