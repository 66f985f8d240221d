"""What tests of the gateway ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from contracts.settings import Settings
from tests.ops.scene import Scene, scene_on


@pytest.fixture
async def scene(redis_url: str, settings_for: Callable[..., Settings]) -> AsyncIterator[Scene]:
    """A pipeline with its first models, and a gateway on a free port."""
    async with scene_on(redis_url, settings_for(MARKETSWARM_PORT="0")) as scene:
        await scene.pipeline.live()
        yield scene
