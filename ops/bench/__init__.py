"""`make bench`: the measurements of the README as a table and, last, one line of JSON. Bounded to eight minutes."""

from __future__ import annotations

import json


def run_bench() -> None:
    """Run every measurement; ratios are between figures of the same run."""
    from ops.bench import growth, hydrate, latency, promotion, volatility

    def report(line: str) -> None:
        print(line, flush=True)

    hydrated = {size: hydrate.measure(size, report) for size in hydrate.EVENTS}
    for size, rates in hydrated.items():
        ratios = ", ".join(f"{rates['ours'] / rates[name]:.2f} x {name}" for name in rates if name != "ours")
        report(f"hydrate  {size:3} events a frame  ours is {ratios}")
    promotions = promotion.measure_promotions(report)
    drain = latency.measure_drain(report)
    latencies = {rate: latency.measure_latency(rate, report) for rate in latency.FRAME_EVENTS}
    solvers, ticks = volatility.measure_solvers(report), volatility.measure_tick(report)
    grown = {
        "expirations": growth.measure_growth(growth.by_expirations(), report),
        "strikes": growth.measure_growth(growth.by_strikes(), report),
    }
    figures = {
        "hydrate": hydrated,
        "promotion": promotions,
        "drain": drain,
        "latency": latencies,
        "volatility": solvers,
        "tick_ms": ticks,
        "event_ms": grown,
    }
    print(json.dumps(figures))
