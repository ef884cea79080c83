"""The backend without a server: requests go directly to the application, on the database of the test."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.api.app import create_app
from spheroseg.api.auth import finish_recording
from spheroseg.database.accounts import User, add_user, create_token
from spheroseg.resources import Resources
from spheroseg.settings import Settings


@dataclass(frozen=True)
class Backend:
    """client(name) creates that user and sends its token. anonymous sends no token."""

    engine: AsyncEngine
    settings: Settings
    app: FastAPI
    anonymous: httpx.AsyncClient

    async def client(self, name: str, **user: str) -> httpx.AsyncClient:
        token, _ = await self.token(name, **user)
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app),
            base_url="http://test",
            headers={"Authorization": f"Bearer {token}"},
        )

    async def token(self, name: str, **user: str) -> tuple[str, User]:
        async with self.engine.begin() as conn:
            added = await add_user(conn, name, **user)
            token, _ = await create_token(conn, added.id, "test")
        return token, added


@asynccontextmanager
async def backend_on(engine: AsyncEngine, folder: Path, **changes: Any) -> AsyncIterator[Backend]:
    settings = Settings(_env_file=None, spheroseg_data_dir=folder, storage_url=str(folder / "storage"), **changes)
    app = create_app(Resources(settings, engine, None, None))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as anonymous:
        try:
            yield Backend(engine, settings, app, anonymous)
        finally:
            await finish_recording()
