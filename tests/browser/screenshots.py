"""The pictures of the documentation, taken of a running pipeline.

make up
python -m tests.browser.screenshots http://127.0.0.1:8080 ops/docs/img
"""

from __future__ import annotations

import argparse
import asyncio
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.async_api import Page, async_playwright

from tests.browser.conftest import FLAGS, program

COLOURS = 256  # of the palette
SETTLE_MS = 4000


@dataclass(frozen=True, slots=True)
class Picture:
    """What a picture shows: clicks on the page, in order."""

    name: str
    scheme: Literal["dark", "light"] = "dark"
    width: int = 1280
    height: int = 900
    clicks: tuple[str, ...] = ()


PICTURES = (
    Picture("page-dark"),
    Picture("page-light", scheme="light", clicks=("#strategies [data-name=vertical]", "#sides [data-name=put]")),
    Picture("page-narrow", width=390, height=844),
)


async def take(url: str, folder: Path) -> None:
    """Take every picture of the page at `url`."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program(), args=list(FLAGS))
        for picture in PICTURES:
            page = await browser.new_page(
                viewport={"width": picture.width, "height": picture.height}, color_scheme=picture.scheme
            )
            await page.goto(url)
            shot = await _shoot(page, picture)
            (folder / f"{picture.name}.png").write_bytes(with_palette(shot))
        await browser.close()


async def _shoot(page: Page, picture: Picture) -> bytes:
    for selector in picture.clicks:
        await page.click(selector)
    await page.wait_for_timeout(SETTLE_MS)
    return await page.screenshot()


def with_palette(png: bytes) -> bytes:
    """The same picture with a palette: a fraction of the bytes."""
    found = io.BytesIO()
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    few = picture.quantize(COLOURS, Image.Quantize.MEDIANCUT, kmeans=4, dither=Image.Dither.NONE)
    few.save(found, "PNG", optimize=True)
    return found.getvalue()


def main() -> None:
    """Take the pictures the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    told = parser.parse_args()
    told.folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(take(told.url, told.folder))


if __name__ == "__main__":
    main()
