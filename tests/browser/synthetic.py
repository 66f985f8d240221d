"""A board of any size and its diffs, given to the page as if its gateway had sent them."""

from __future__ import annotations

from tests.browser.conftest import Screen

SCRIPT = """(({ strikes, widths }) => {
  const { source } = page.feed;
  source.close(); // from here on the page hears this script alone
  const cells = [];
  for (let row = 0; row < strikes; row += 1)
    for (let width = 1; width <= widths; width += 1) cells.push(["butterfly", "call", 6600 + 5 * row, 5 * width]);
  const price = () => Math.round(400 + 2000 * Math.random());
  const column = (count) => Array.from({ length: count }, price);
  const send = (kind, data) => source.dispatchEvent(new MessageEvent(kind, { data: JSON.stringify(data) }));
  const epoch = "SPX:1:0000", id = "SPXW:2031-01-15", generation = "synthetic";
  let seq = 1, version = 1;
  const count = cells.length;
  send("reset", {
    epoch, generation, seq, reason: "joined", complete_to: null,
    widths: Array.from({ length: widths }, (_, n) => 5 * n + 5),
    planes: [{
      id, root: "SPXW", expiration: "2031-01-15", dte: 0, version, cells,
      strikes: Array.from({ length: strikes }, (_, n) => 6600 + 5 * n),
      mid2: column(count), buy: column(count), sell: column(count), flags: new Array(count).fill(0),
    }],
  });
  window.sendDiff = (changed) => {
    const step = Math.floor(count / changed);
    const gaps = Array.from({ length: changed }, (_, n) => (n ? step : Math.floor(Math.random() * step)));
    seq += 1;
    version += 1;
    send("diff", {
      epoch, generation, seq, plane: id, from: version - 1, to: version, complete_to: null, cells: gaps,
      mid2: column(changed), buy: column(changed), sell: column(changed), flags: new Array(changed).fill(0),
    });
  };
})"""


async def show_synthetic(screen: Screen, strikes: int = 120, widths: int = 8) -> None:
    """Replace what the page shows by a board of so many strikes and widths; `sendDiff(n)` then changes n cells."""
    await screen.tell(f"{SCRIPT}({{ strikes: {strikes}, widths: {widths} }})")
    await screen.until(f"page.sheet.strikes.length === {strikes}")
    assert await screen.tell("page.feed.gaps") == 0
