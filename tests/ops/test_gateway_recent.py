"""What is kept for all clients: whoever has a place misses nothing, and learns when its place is gone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ops.gateway.event import Event
from ops.gateway.recent import Recent
from ops.gateway.stream import FIRST

SIZES = st.lists(st.integers(1, 40), max_size=60)
MOST = st.integers(20, 200)


def kept(sizes: list[int], most_bytes: int) -> tuple[Recent, list[Event]]:
    """Events of these sizes with the ids 2-0, 4-0, ...; what is kept of them, and all of them."""
    recent = Recent(most_bytes)
    events = [Event((2 * number, 0), "gex", b"x" * size, number) for number, size in enumerate(sizes, 1)]
    for event in events:
        recent.append(event)
    return recent, events


@given(SIZES, MOST)
def test_whoever_has_a_place_gets_every_event_after_it(sizes: list[int], most: int) -> None:
    recent, events = kept(sizes, most)
    assert recent.end == len(events)  # places begin at 0 and count events
    for place in range(len(events) + 1):
        assert not recent.has(place) or list(recent.since(place)) == events[place:]


@given(SIZES, MOST)
def test_as_much_is_kept_as_there_is_room_for(sizes: list[int], most: int) -> None:
    recent, events = kept(sizes, most)
    count = len(recent.since(0))
    assert count <= 1 or sum(sizes[-count:]) <= most
    assert count == len(events) or sum(sizes[-count - 1 :]) > most
    assert recent.has(len(events) - count) and not (count < len(events) and recent.has(len(events) - count - 1))


@given(SIZES, MOST, st.integers(0, 130))
def test_the_place_after_an_entry_is_known_while_all_that_follows_it_is_kept(
    sizes: list[int], most: int, ms: int
) -> None:
    recent, events = kept(sizes, most)
    place = recent.place_after((ms, 0))
    following = [event for event in events if event.id is not None and event.id > (ms, 0)]
    if place is None:
        assert len(recent.since(0)) < len(following)
    else:
        assert list(recent.since(place)) == following


@given(SIZES, MOST, st.integers(0, 70))
def test_an_entry_so_many_events_back(sizes: list[int], most: int, count: int) -> None:
    recent, _ = kept(sizes, most)
    place = recent.place_after(recent.back(count))
    assert place is not None and len(recent.since(place)) == min(count, len(recent.since(0)))


def test_after_a_new_beginning_every_place_before_is_gone() -> None:
    recent, _ = kept([1, 1, 1], 100)
    place = recent.end
    recent.begin((6, 0))
    assert not recent.has(place) and not recent.since(place)
    assert recent.place_after((4, 0)) is None and recent.place_after(FIRST) is None
    recent.append(Event((8, 0), "gex", b"x", 9))
    place_after = recent.place_after((6, 0))
    assert not recent.has(place) and place_after is not None and recent.has(place_after)
    assert [event.seq for event in recent.since(place_after)] == [9]
