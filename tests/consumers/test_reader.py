"""The reading API: arrays that equal the published tiles after any absence, cut, promotion or restart."""

from __future__ import annotations

import asyncio
import doctest
import pickle
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

import consumers.reader
from consumers import embedded
from consumers.reader import EventReader, SurfaceReader, open_surface
from consumers.surface import Event, GapError, Surface, Update, fold
from contracts.errors import FatalError
from contracts.keys import Layer
from contracts.planes import UNKNOWN, Ints, decode_tiles
from contracts.settings import Settings
from tests.ops.pipeline import STRIKES, SYMBOL, SmallPipeline, small_pipeline
from tests.ops.test_gateway import server_of_its_own
from tests.pipeline import NOW, Pipeline, chain_rows, cid_of, frame, quote
from tests.waiting import wait_until, wait_until_async

SettingsFor = Callable[..., Settings]
PLANE = "SPXW:2031-01-15"


@pytest.fixture
async def pipeline(redis_url: str, settings_for: SettingsFor) -> AsyncIterator[SmallPipeline]:
    """A pipeline with its first models."""
    async with small_pipeline(redis_url, settings_for()) as pipeline:
        await pipeline.live()
        yield pipeline


def published(pipeline: SmallPipeline) -> Ints:
    """The cells that the models stage published last."""
    return decode_tiles(pipeline.client.get(pipeline.keys.plane(pipeline.epoch(), PLANE, Layer.PUBLISHED))).cells


async def quoted(pipeline: SmallPipeline, count: int, price: float = 8.0) -> None:
    """So many quotes, all of them published."""
    before = pipeline.state("seq")
    for number in range(count):
        pipeline.quote(STRIKES[number % len(STRIKES)], price + number / 100, price + 0.5 + number / 100)
    await wait_until_async(lambda: pipeline.state("seq") > before, "a diff")
    await wait_until_async(lambda: not lags(pipeline), "everything to be published")


def lags(pipeline: SmallPipeline) -> bool:
    """Whether a frame is unread or a change unpublished."""
    stream = pipeline.keys.ws_stream(SYMBOL)
    last = pipeline.client.xinfo_stream(stream)["last-generated-id"]
    if pipeline.client.hget(pipeline.keys.cursor("staging", SYMBOL), stream) != last:
        return True
    versions = pipeline.client.hgetall(pipeline.keys.versions(pipeline.epoch()))
    return bool(versions[f"{PLANE}|quotes".encode()] != versions.get(f"{PLANE}|published".encode()))


def follows(pipeline: SmallPipeline) -> bool:
    """Whether somebody waits for entries of the published stream: what comes from now on is given to them."""
    return bool(followers(pipeline))


def followers(pipeline: SmallPipeline) -> set[str]:
    """Connections that read the published stream; stages read with XREADGROUP."""
    return {row["id"] for row in pipeline.client.client_list() if row["cmd"] == "xread"}


async def caught_up(reader: SurfaceReader, pipeline: SmallPipeline) -> list[Update]:
    """Updates up to the newest that is published."""
    updates: list[Update] = []
    while reader.surface is None or reader.surface.seq < pipeline.state("seq"):
        updates.append(await asyncio.wait_for(anext(reader), 20))
    return updates


# --- joining and following


async def test_the_first_update_is_what_is_published_with_its_models(pipeline: SmallPipeline, redis_url: str) -> None:
    async with SurfaceReader(redis_url, SYMBOL) as reader:
        first = await anext(reader)
    assert first.type == "reset" and first.surface.epoch == pipeline.epoch()
    assert (first.surface.planes[PLANE].cells == published(pipeline)).all()
    assert first.surface.models["gex"]["epoch"] == pipeline.epoch()


async def test_every_diff_is_applied_and_names_what_it_changed(pipeline: SmallPipeline, redis_url: str) -> None:
    async with SurfaceReader(redis_url, SYMBOL) as reader:
        before = (await anext(reader)).surface.planes[PLANE]
        pipeline.quote(STRIKES[3], 8.0, 8.5)
        update = await anext(reader)
    after = update.surface.planes[PLANE]
    assert (update.type, update.plane, after.version) == ("diff", PLANE, before.version + 1)
    different = np.flatnonzero((before.cells != after.cells).any(axis=0))
    assert len(different) and (update.changed == different).all()
    assert (after.cells == published(pipeline)).all()


async def test_it_follows_many_diffs_over_their_checksums(pipeline: SmallPipeline, redis_url: str) -> None:
    async with SurfaceReader(redis_url, SYMBOL) as reader:
        await anext(reader)
        for number in range(60):  # every 50th diff carries a checksum
            await quoted(pipeline, 1, 5.0 + number / 10)
        updates = await caught_up(reader, pipeline)
        assert reader.gaps == 0 and {update.type for update in updates} == {"diff"}
        assert updates[-1].surface.planes[PLANE].version >= 60
        assert (updates[-1].surface.planes[PLANE].cells == published(pipeline)).all()


async def test_grids_say_what_the_json_model_says(pipeline: SmallPipeline, redis_url: str) -> None:
    await quoted(pipeline, 30)
    await pipeline.tick()
    await wait_until_async(lambda: pipeline.state("tick") >= 2, "the models of the second tick")
    surface, model = await joined_with_json(pipeline, redis_url)
    for strategy in ("butterfly", "vertical", "single"):
        for side, told in model[strategy].items():
            grid = surface.planes[PLANE].grid(strategy, side)
            for price in ("mid", "buy", "sell"):
                assert grid.dollars(price).tolist() == rows(told[price]), (strategy, side, price)
            assert np.ma.masked_array(grid.flags, ~grid.exists).tolist() == rows(told["flags"])


def rows(column: list[Any]) -> list[list[Any]]:
    """A single has one width."""
    return [row if isinstance(row, list) else [row] for row in column]


async def joined_with_json(pipeline: SmallPipeline, redis_url: str) -> tuple[Surface, dict[str, Any]]:
    """The surface now, and what the JSON heatmap says of its plane."""
    async with SurfaceReader(redis_url, SYMBOL) as reader:
        surface = (await anext(reader)).surface
    model = orjson.loads(pipeline.client.get(pipeline.keys.heatmap_model(SYMBOL)))
    return surface, model["planes"][PLANE]


async def test_a_tick_brings_the_models_of_its_moment(pipeline: SmallPipeline, redis_url: str) -> None:
    async with SurfaceReader(redis_url, SYMBOL) as reader:
        await anext(reader)
        await pipeline.tick()
        updates = [await anext(reader), await anext(reader)]
    assert [update.type for update in updates] == ["tick", "gex"]
    assert updates[1].surface.models["gex"]["tick"] == 2


async def test_before_anything_is_published_it_waits(redis_url: str, settings_for: SettingsFor) -> None:
    async with small_pipeline(redis_url, settings_for()) as pipeline, SurfaceReader(redis_url, SYMBOL) as reader:
        first = asyncio.ensure_future(anext(reader))
        await asyncio.sleep(0.2)
        assert not first.done()
        await pipeline.live()
        assert (await asyncio.wait_for(first, 10)).type == "reset"


async def test_who_stops_waiting_loses_nothing(pipeline: SmallPipeline, redis_url: str) -> None:
    async with SurfaceReader(redis_url, SYMBOL) as reader:
        await anext(reader)
        for number in range(10):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(reader), 0.01)
            await quoted(pipeline, 1, 5.0 + number)
            await asyncio.wait_for(anext(reader), 10)
        await caught_up(reader, pipeline)
        assert reader.surface is not None and reader.gaps == 0
        assert (reader.surface.planes[PLANE].cells == published(pipeline)).all()


async def test_who_stops_waiting_keeps_the_connection(pipeline: SmallPipeline, redis_url: str) -> None:
    async with SurfaceReader(redis_url, SYMBOL) as reader:
        await anext(reader)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(reader), 0.05)
        await wait_until_async(lambda: follows(pipeline), "it follows")
        before = followers(pipeline)
        for _ in range(10):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(reader), 0.01)
        assert followers(pipeline) == before


# --- absence and gaps


async def test_it_goes_on_from_the_surface_it_held(pipeline: SmallPipeline, redis_url: str) -> None:
    async with SurfaceReader(redis_url, SYMBOL) as reader:
        held = pickle.dumps((await anext(reader)).surface)
    await quoted(pipeline, 20)
    async with SurfaceReader(redis_url, SYMBOL, since=pickle.loads(held)) as reader:
        updates = await caught_up(reader, pipeline)
    assert {update.type for update in updates} == {"diff"}
    assert (updates[-1].surface.planes[PLANE].cells == published(pipeline)).all()


async def test_after_the_entries_are_trimmed_it_starts_over(pipeline: SmallPipeline, redis_url: str) -> None:
    async with SurfaceReader(redis_url, SYMBOL) as reader:
        held = (await anext(reader)).surface
    await quoted(pipeline, 5)
    await quoted(pipeline, 5, 9.0)
    pipeline.client.xtrim(pipeline.keys.model_stream(SYMBOL), maxlen=1, approximate=False)
    async with SurfaceReader(redis_url, SYMBOL, since=held) as reader:
        update = await anext(reader)
        assert update.type == "reset" and reader.gaps == 1
        assert (update.surface.planes[PLANE].cells == published(pipeline)).all()


async def test_a_gap_in_the_order_of_publication_starts_over(pipeline: SmallPipeline, redis_url: str) -> None:
    async with SurfaceReader(redis_url, SYMBOL) as reader:
        await anext(reader)
        pipeline.client.hincrby(pipeline.keys.model_state(SYMBOL), "seq", 5)  # five entries were lost
        pipeline.quote(STRIKES[3], 8.0, 8.5)
        update = await anext(reader)
        assert update.type == "reset" and reader.gaps == 1
        await quoted(pipeline, 3, 9.0)
        updates = await caught_up(reader, pipeline)
        assert reader.gaps == 1 and (updates[-1].surface.planes[PLANE].cells == published(pipeline)).all()


async def test_foreign_entries_are_passed_over(pipeline: SmallPipeline, redis_url: str) -> None:
    async with SurfaceReader(redis_url, SYMBOL) as reader:
        await anext(reader)
        pipeline.client.xadd(pipeline.keys.model_stream(SYMBOL), {"hello": "world"})
        pipeline.quote(STRIKES[3], 8.0, 8.5)
        assert (await anext(reader)).type == "diff" and reader.gaps == 0


async def test_a_promotion_is_a_reset_with_another_geometry(pipeline: SmallPipeline, redis_url: str) -> None:
    async with SurfaceReader(redis_url, SYMBOL) as reader:
        before = (await anext(reader)).surface
        pipeline.chain(STRIKES[:-1])
        update = await anext(reader)
        while update.type != "reset":
            update = await anext(reader)
        assert update.surface.epoch == pipeline.epoch() != before.epoch and reader.gaps == 0
        assert len(update.surface.planes[PLANE].strikes) == len(STRIKES) - 1
        assert not update.surface.models  # those of the old board cannot be joined with this one
        await quoted(pipeline, 10)
        updates = await caught_up(reader, pipeline)
        assert (updates[-1].surface.planes[PLANE].cells == published(pipeline)).all()


async def test_readers_that_join_amid_a_storm_all_end_up_equal(pipeline: SmallPipeline, redis_url: str) -> None:
    joined = []

    async def join_late(delay_s: float) -> Ints:
        await asyncio.sleep(delay_s)
        async with SurfaceReader(redis_url, SYMBOL) as reader:
            joined.append(await anext(reader))
            while (update := await anext(reader)).type != "gex":
                pass
            assert reader.gaps == 0
            return update.surface.planes[PLANE].cells

    readers = [asyncio.create_task(join_late(number * 0.03)) for number in range(8)]
    for number in range(120):
        pipeline.quote(STRIKES[number % 41], 7.0 + number / 100, 7.5 + number / 100)
        await asyncio.sleep(0.003)
    await wait_until_async(lambda: not lags(pipeline), "everything to be published")
    await wait_until_async(lambda: len(joined) == len(readers), "all to join before the tick they end with")
    await pipeline.tick()
    for cells in await asyncio.gather(*readers):
        assert (cells == published(pipeline)).all()


async def test_a_restarted_server_is_waited_for(tmp_path: Path, settings_for: SettingsFor) -> None:
    port = embedded.free_port()
    url = f"redis://127.0.0.1:{port}"
    with server_of_its_own(tmp_path, port) as server:
        async with small_pipeline(url, settings_for()) as pipeline, SurfaceReader(url, SYMBOL) as reader:
            await pipeline.live()
            first = (await anext(reader)).surface
            server.terminate()
            await asyncio.to_thread(server.wait)
            waiting = asyncio.ensure_future(anext(reader))
            with server_of_its_own(tmp_path, port):
                pipeline.quote(STRIKES[3], 8.0, 8.5)
                update = await asyncio.wait_for(waiting, 30)
                await wait_until_async(lambda: not lags(pipeline), "everything to be published")
                await caught_up(reader, pipeline)
                assert update.type in ("diff", "reset") and update.surface.seq > first.seq
                assert reader.surface is not None
                assert (reader.surface.planes[PLANE].cells == published(pipeline)).all()


async def test_another_history_of_the_server_starts_over(pipeline: SmallPipeline, redis_url: str) -> None:
    async with SurfaceReader(redis_url, SYMBOL) as reader:
        first = (await anext(reader)).surface
        pipeline.client.hdel(pipeline.keys.model_state(SYMBOL), "generation")
        pipeline.quote(STRIKES[3], 8.0, 8.5)
        update = await anext(reader)
        assert update.type == "reset" and update.surface.generation != first.generation


# --- entries alone


async def test_entries_follow_from_an_id(pipeline: SmallPipeline, redis_url: str) -> None:
    async with SurfaceReader(redis_url, SYMBOL) as reader:
        last = (await anext(reader)).surface
    await quoted(pipeline, 3)
    await pipeline.tick()
    async with EventReader(redis_url, SYMBOL, after=last.entry_id) as events:
        found = [await anext(events)]
        while found[-1].type != "gex":
            found.append(await anext(events))
    assert [event.seq for event in found] == list(range(last.seq + 1, last.seq + 1 + len(found)))
    assert {event.type for event in found} == {"diff", "tick", "gex"}


async def test_an_id_that_is_gone_is_told_as_a_gap(pipeline: SmallPipeline, redis_url: str) -> None:
    async with EventReader(redis_url, SYMBOL, after="1-1") as events:
        found = [await anext(events), await anext(events)]
    assert [event.type for event in found] == ["gap", "reset"] and found[0].data == b""


async def test_entries_that_are_lost_are_told_as_a_gap(pipeline: SmallPipeline, redis_url: str) -> None:
    async with EventReader(redis_url, SYMBOL) as events:
        await quoted_beside(events, pipeline)
        pipeline.client.hincrby(pipeline.keys.model_state(SYMBOL), "seq", 5)
        pipeline.quote(STRIKES[4], 8.0, 8.5)
        async with asyncio.timeout(10):
            found = [await anext(events), await anext(events)]
    assert [event.type for event in found] == ["gap", "diff"]


async def quoted_beside(events: EventReader, pipeline: SmallPipeline) -> None:
    """A first diff arrived."""
    first = asyncio.ensure_future(anext(events))
    await wait_until_async(lambda: follows(pipeline), "it follows")
    pipeline.quote(STRIKES[3], 8.0, 8.5)
    assert (await first).type == "diff"


async def test_without_an_id_entries_start_with_the_next(pipeline: SmallPipeline, redis_url: str) -> None:
    async with EventReader(redis_url, SYMBOL) as events:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(events), 0.2)
        await wait_until_async(lambda: follows(pipeline), "it follows")
        pipeline.quote(STRIKES[3], 8.0, 8.5)
        assert (await anext(events)).type == "diff"


# --- without async, and frames


async def test_the_example_of_the_documentation_runs(pipeline: SmallPipeline, redis_url: str) -> None:
    await pipeline.tick()

    def run() -> doctest.TestResults:
        (example,) = doctest.DocTestFinder(recurse=False).find(
            consumers.reader, "reader", globs={"redis_url": redis_url}
        )
        return doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example)

    results = await asyncio.to_thread(run)
    assert results.attempted >= 4 and results.failed == 0


async def test_reading_without_async(pipeline: SmallPipeline, redis_url: str) -> None:
    def read() -> tuple[Update | None, Update, Update]:
        with open_surface(redis_url, SYMBOL) as reader:
            first = next(reader)
            nothing = reader.next(timeout_s=0.05)
            pipeline.quote(STRIKES[3], 8.0, 8.5)
            second = next(reader)
            assert reader.surface is second.surface
            return nothing, first, second

    threads = threading.active_count()
    nothing, first, second = await asyncio.to_thread(read)
    assert nothing is None and (first.type, second.type) == ("reset", "diff")
    wait_until(lambda: threading.active_count() <= threads + 1, "its thread to end")


async def test_a_frame_has_a_row_per_cell_and_na_for_no_price(pipeline: SmallPipeline, redis_url: str) -> None:
    pipeline.quote(STRIKES[3], 0.0, 8.5)
    await wait_until_async(lambda: not lags(pipeline), "the quote to be published")
    async with SurfaceReader(redis_url, SYMBOL) as reader:
        surface = (await anext(reader)).surface
    table = surface.frame()
    cells = surface.planes[PLANE].cells
    assert len(table) == cells.shape[1] and set(table["expiration"]) == {"2031-01-15"}
    assert (table["mid2"].isna().to_numpy() == (cells[0] == UNKNOWN)).all() and table["mid2"].isna().any()
    single = table[(table.strategy == "single") & (table.side == "call") & (table.strike == STRIKES[3])]
    assert single["buy"].tolist() == [850] and single["sell"].tolist() == [0]


async def test_a_frame_without_pandas_says_what_to_install(
    pipeline: SmallPipeline, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SurfaceReader(redis_url, SYMBOL) as reader:
        surface = (await anext(reader)).surface
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(FatalError, match="pip install pandas"):
        surface.frame()


# --- laws of the fold


def history(quotes: list[tuple[int, int]], cuts: set[int]) -> tuple[Pipeline, list[Event]]:
    """A pipeline without a server that saw these quotes (strike number, cents), and all it published.

    It publishes after the quotes numbered in `cuts`, and promotes amid them.
    """
    pipeline = Pipeline()
    strikes = tuple(range(6850, 6905, 5))
    pipeline.fetch(1, {"2026-01-16": chain_rows(strikes)})
    pipeline.run()
    for number, (strike, cents) in enumerate(quotes):
        bid = cents / 100
        pipeline.feed(frame(quote(cid_of(strikes[strike]), bid, bid + 0.5, round(NOW * 1000) + number, number)))
        if number in cuts:
            pipeline.run()
        if number == len(quotes) // 2:
            pipeline.fetch(2, {"2026-01-16": chain_rows(strikes[1:])}, ts=NOW + 1)
            pipeline.run()
    pipeline.tick(NOW + 2)
    pipeline.run()
    entries = pipeline.store.streams[pipeline.keys.model_stream(SYMBOL)]
    events = [
        Event.of(f"{number}-0", {name.encode(): value for name, value in fields.items()})
        for number, fields in enumerate(entries, 1)
    ]
    return pipeline, [event for event in events if event is not None]


QUOTES = st.lists(st.tuples(st.integers(0, 10), st.integers(0, 4000)), min_size=2, max_size=25)


@how(max_examples=25)
@given(QUOTES, st.sets(st.integers(0, 25)), st.sets(st.integers(0, 60)))
def test_any_cut_of_the_stream_gives_the_published_tiles(
    quotes: list[tuple[int, int]], published_after: set[int], kept_at: set[int]
) -> None:
    pipeline, events = history(quotes, published_after)
    surface: Surface | None = None
    for number, event in enumerate(events):
        surface = fold(surface, event, SYMBOL).surface
        if number in kept_at:
            surface = pickle.loads(pickle.dumps(surface))
    assert surface is not None and surface.epoch == pipeline.active()
    ((plane, held),) = surface.planes.items()
    blob = pipeline.store.strings[pipeline.keys.plane(surface.epoch, plane, Layer.PUBLISHED)]
    tiles = decode_tiles(bytes(blob))
    assert (held.version, held.cells.tolist()) == (tiles.version, tiles.cells.tolist())


@how(max_examples=25)
@given(QUOTES, st.data())
def test_an_entry_that_is_missing_is_noticed(quotes: list[tuple[int, int]], data: st.DataObject) -> None:
    _, events = history(quotes, set(range(25)))
    lost = data.draw(st.integers(0, len(events) - 2))
    surface: Surface | None = None
    for event in events[:lost]:
        surface = fold(surface, event, SYMBOL).surface
    follower = events[lost + 1]
    if follower.type == "reset":
        assert fold(surface, follower, SYMBOL).surface.seq == follower.seq
    else:
        with pytest.raises(GapError):
            fold(surface, follower, SYMBOL)


def test_versions_and_checksums_are_verified_beside_the_order() -> None:
    _, events = history([(1, 900), (2, 950)], {0, 1})
    reset, *rest = events
    opened = fold(None, reset, SYMBOL).surface
    diff = next(event for event in rest if event.type == "diff")
    assert fold(opened, diff, SYMBOL).plane
    (plane,) = opened.planes
    broken = {
        "from": diff.data.replace(b'"from":1', b'"from":7'),
        "epoch": diff.data.replace(opened.epoch.encode(), b"SPX:1:0000"),
        "checksum": diff.data[:-1] + b',"crc":12345}',
        "no JSON": diff.data[:-5],
        "a tick ahead": b'{"epoch":"%b","tick":1,"complete_to":null,"versions":{"%b":99}}'
        % (opened.epoch.encode(), plane.encode()),
    }
    for what, data in broken.items():
        kind = "tick" if what == "a tick ahead" else "diff"
        assert data != diff.data, what
        with pytest.raises(GapError):
            fold(opened, Event(diff.id, kind, diff.seq, diff.generation, data), SYMBOL)
