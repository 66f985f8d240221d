"""Incremental equals full, bit for bit, through the stages; and not much more is computed than was touched."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.compiled import compiled_epoch
from contracts.keys import Layer, Stat
from contracts.planes import QUOTE_ROW, Array, decode_tiles, unpack_rows
from stages.calculate.tiles import compute_tiles, touched_cells
from tests.pipeline import NOW, Pipeline, chain_rows, cid_of, frame, quote

STRIKES = tuple(range(6850, 6960, 5))

# strike number, side, bid and ask in cents; small numbers, so that quotes often repeat what is there
updates = st.lists(
    st.lists(
        st.tuples(
            st.integers(0, len(STRIKES) - 1),
            st.sampled_from(["call", "put"]),
            st.integers(0, 40).map(lambda n: n * 5),
            st.integers(0, 40).map(lambda n: n * 5),
        ),
        min_size=1,
        max_size=30,
    ),
    min_size=1,
    max_size=6,
)


def quotes_of(pipeline: Pipeline) -> Array:
    return pipeline.rows(Layer.QUOTES).copy()


@settings(max_examples=30)
@given(updates)
def test_random_updates_give_the_full_recompute_and_compute_little_more_than_they_touch(
    batches: list[list[tuple[int, str, int, int]]],
) -> None:
    pipeline = Pipeline()
    epoch = pipeline.fetch(1, {"2026-01-16": chain_rows(STRIKES)})
    pipeline.run()
    compiled = compiled_epoch(epoch, bytes(pipeline.store.strings[pipeline.keys.listing(epoch)]))
    ((plane, plan),) = compiled.plans.items()
    counters = pipeline.keys.analytics(Stat.STRATEGY, "SPX")
    before, number = pipeline.counts(counters), 0
    touched = 0
    for batch in batches:
        earlier = quotes_of(pipeline)
        for strike, kind, bid, ask in batch:
            number += 1
            cid = cid_of(STRIKES[strike], kind)
            pipeline.feed(frame(quote(cid, bid / 100, ask / 100, round(NOW * 1000) + number, number)))
        pipeline.run()
        quotes = quotes_of(pipeline)
        changed = np.flatnonzero(quotes["row_version"] != earlier["row_version"])
        touched += len(touched_cells(plan, changed))
        for layer in (Layer.TILES, Layer.PUBLISHED):
            tiles = decode_tiles(bytes(pipeline.store.strings[pipeline.keys.plane(epoch, plane, layer)]))
            assert tiles.cells.tobytes() == compute_tiles(plan, quotes).tobytes(), layer
    after = pipeline.counts(counters)
    assert after["tiles_touched"] - before["tiles_touched"] == touched
    assert touched <= after["tiles_recomputed"] - before["tiles_recomputed"] <= 1.5 * touched


def test_one_event_computes_exactly_the_cells_of_its_contract() -> None:
    pipeline = Pipeline()
    epoch = pipeline.fetch(1, {"2026-01-16": chain_rows(STRIKES)})
    pipeline.run()
    compiled = compiled_epoch(epoch, bytes(pipeline.store.strings[pipeline.keys.listing(epoch)]))
    ((plane, plan),) = compiled.plans.items()
    counters = pipeline.keys.analytics(Stat.STRATEGY, "SPX")
    before = pipeline.counts(counters)["tiles_recomputed"]
    pipeline.feed(frame(quote(cid_of(6900), 8.0, 8.5, round(NOW * 1000))))
    pipeline.run()
    rows = unpack_rows(bytes(pipeline.store.strings[pipeline.keys.plane(epoch, plane, Layer.QUOTES)]), QUOTE_ROW)
    (row,) = np.flatnonzero(rows["row_version"] == rows["row_version"].max()).tolist()
    assert pipeline.counts(counters)["tiles_recomputed"] - before == len(touched_cells(plan, np.array([row])))
