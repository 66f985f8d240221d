"""Versions of an epoch: who lags behind whom, and up to when everything published is complete."""

from __future__ import annotations

import pytest

from contracts.commit import version_field, watermark_field
from contracts.versions import Level, Versions, complete_to

NEAR, FAR = "SPXW:2026-01-16", "SPXW:2026-01-20"


def versions(**levels: tuple[int, float]) -> Versions:
    """Levels named `near_quotes`, `far_published` and so on."""
    fields: dict[bytes, bytes] = {}
    for name, (version, watermark) in levels.items():
        plane, layer = name.split("_")
        plane = {"near": NEAR, "far": FAR}[plane]
        fields[version_field(plane, layer).encode()] = str(version).encode()
        fields[watermark_field(plane, layer).encode()] = repr(watermark).encode()
    return Versions(fields)


def test_a_layer_that_was_never_made_is_at_version_zero() -> None:
    assert Versions({}).level(NEAR, "tiles") == Level(0, 0.0)


def test_a_level_has_version_and_watermark() -> None:
    assert versions(near_quotes=(7, 1.5)).level(NEAR, "quotes") == Level(7, 1.5)


@pytest.mark.parametrize(("tiles", "lags"), [(6, True), (7, False), (8, False)])
def test_a_layer_lags_when_it_is_below_its_source(tiles: int, *, lags: bool) -> None:
    assert versions(near_quotes=(7, 0.0), near_tiles=(tiles, 0.0)).lags(NEAR, "tiles", "quotes") is lags


def test_a_layer_that_was_never_made_lags() -> None:
    assert versions(near_quotes=(1, 0.0)).lags(NEAR, "tiles", "quotes")


# --- complete_to

LEVEL = versions(near_quotes=(3, 8.0), near_published=(3, 8.0), far_quotes=(5, 9.0), far_published=(5, 9.0))
BEHIND = versions(near_quotes=(3, 8.0), near_published=(2, 6.0), far_quotes=(5, 9.0), far_published=(4, 7.0))


def test_with_nothing_behind_all_frames_of_the_source_are_in() -> None:
    """Also those that changed nothing: the source's own watermark counts, not the planes'."""
    assert complete_to(LEVEL, (NEAR, FAR), 12.0) == 12.0


def test_the_plane_that_is_furthest_behind_decides() -> None:
    assert complete_to(BEHIND, (NEAR, FAR), 12.0) == 6.0


def test_only_planes_of_the_board_count() -> None:
    assert complete_to(BEHIND, (FAR,), 12.0) == 7.0


def test_the_publication_at_hand_counts_as_published() -> None:
    assert complete_to(BEHIND, (NEAR, FAR), 12.0, {NEAR: Level(3, 8.0)}) == 7.0
    assert complete_to(BEHIND, (NEAR, FAR), 12.0, {NEAR: Level(3, 8.0), FAR: Level(5, 9.0)}) == 12.0


def test_what_the_published_version_is_known_to_be_complete_to_counts_also_for_a_cut_of_it() -> None:
    """A cut carries the watermark of the last change; nothing came until the plane got behind at 7."""
    assert complete_to(BEHIND, (FAR,), 12.0, {FAR: Level(4, 2.0)}) == 7.0
    assert complete_to(BEHIND, (FAR,), 12.0, {FAR: Level(3, 2.0)}) == 2.0


def test_it_is_never_later_than_the_source() -> None:
    assert complete_to(BEHIND, (NEAR, FAR), 5.0) == 5.0


def test_before_the_first_frame_there_is_none() -> None:
    assert complete_to(Versions({}), (NEAR,), 0.0) is None
