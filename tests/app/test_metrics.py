"""Metrics: counted through the observer seam, rendered as Prometheus reads them."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from millstream import App, Retry, event
from millstream.app.merged_metrics import merged
from millstream.app.metrics import BUCKETS, METRICS, Metrics
from millstream.contracts.envelope import Envelope
from millstream.core.broker import Partition
from millstream.core.observe import Outcome
from millstream.testing import TestApp


@event("order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    """A customer has committed to buy."""

    order_id: str


@event("order.accepted", key="order_id")
@dataclass(frozen=True)
class OrderAccepted:
    """It is noted."""

    order_id: str


def samples(page: bytes | str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """What a page says, as a scraper reads it."""
    text = page.decode() if isinstance(page, bytes) else page
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(page: bytes | str, name: str, **labels: str) -> float | None:
    """One sample; None when it is absent."""
    return samples(page).get((name, frozenset(labels.items())))


async def test_what_becomes_of_deliveries_is_counted_by_group_handler_and_outcome() -> None:
    """Handled, retried, parked and duplicates, and what was published."""
    app = App("desk")

    @app.subscriber(OrderPlaced, retry=Retry(attempts=2, first=1.0, jitter=0))
    async def accept(order: OrderPlaced) -> OrderAccepted:
        if order.order_id == "bad":
            raise ValueError("no such thing")
        return OrderAccepted(order.order_id)

    metrics = Metrics(app)
    app.observers.append(metrics)
    async with TestApp(app) as test:
        await test.publish(OrderPlaced("a"), id="one")
        await test.publish(OrderPlaced("a"), id="one")
        await test.publish(OrderPlaced("bad"))
        await test.advance(5)
        await metrics.sample()
        page = metrics.render()

    labels = {"group": "desk.accept", "handler": "accept"}
    count = {kind: value(page, "millstream_deliveries_total", outcome=kind, **labels) for kind in ("handled", "retry", "parked")}
    assert count == {"handled": 1, "retry": 1, "parked": 1}
    assert [v for (_, series), v in samples(page).items() if ("outcome", "duplicate") in series] == [1]
    assert value(page, "millstream_published_total", group="desk.accept", type="order.accepted") == 1
    assert value(page, "millstream_dead_letters", group="desk.accept") == 1
    assert value(page, "millstream_parked", group="desk.accept") == 1
    assert value(page, "millstream_lag_events", group="desk.accept", topic="order.placed") == 0
    assert value(page, "millstream_outbox_events") == 0
    assert value(page, "millstream_ready") == 1


def outcome(worked: float) -> Outcome:
    """A handled delivery that took so long."""
    envelope = Envelope(id="i", source="/s", type="t", time=1)
    return Outcome("handled", "g", "h", Partition("t", 0), 0, envelope, waited=worked, worked=worked)


async def test_durations_fall_into_cumulative_buckets_with_their_sum() -> None:
    """As Prometheus' quantiles need them."""
    metrics = Metrics(App("desk"))

    metrics.settled([outcome(0.001), outcome(0.002), outcome(1000.0)])
    page = metrics.render()

    def bucket(le: str) -> float | None:
        return value(page, "millstream_handling_seconds_bucket", group="g", handler="h", le=le)

    assert [bucket("0.001"), bucket("0.0025"), bucket(str(BUCKETS[-1])), bucket("+Inf")] == [1, 2, 2, 3]
    assert value(page, "millstream_handling_seconds_sum", group="g", handler="h") == pytest.approx(1000.003)
    assert value(page, "millstream_waiting_seconds_count", group="g") == 3


async def test_what_cannot_be_asked_is_absent_and_never_zero() -> None:
    """A lag of zero while the store is away would be a lie."""
    app = App("desk")

    @app.subscriber(OrderPlaced)
    async def accept(order: OrderPlaced) -> None:
        pass

    metrics = Metrics(app)
    async with TestApp(app):
        await metrics.sample()
        known = metrics.render()
        app.store.outbox_size = _broken  # type: ignore[method-assign]
        await app.clock.advance(10)  # type: ignore[attr-defined]
        await metrics.sample()
        unknown = metrics.render()

    assert value(known, "millstream_lag_events", group="desk.accept", topic="order.placed") == 0
    assert value(unknown, "millstream_lag_events", group="desk.accept", topic="order.placed") is None
    assert value(unknown, "millstream_outbox_events") is None


async def _broken() -> int:
    from millstream.contracts.errors import StoreBusyError

    raise StoreBusyError("it is locked")


def test_the_pages_of_workers_become_one_that_a_scraper_can_read() -> None:
    """Counters carry their worker; what is true of a group stands there once."""
    pages: dict[str, str] = {}
    for number in ("1", "2"):
        metrics = Metrics(App("desk"))
        metrics.settled([outcome(0.001)] * int(number))
        metrics._gauges = {"millstream_lag_events": {("g", "t"): 7.0}, "millstream_ready": {(): 1.0}}  # noqa: SLF001
        pages[number] = metrics.render().decode()

    page = merged(pages)

    labels = {"group": "g", "handler": "h", "outcome": "handled"}
    assert [value(page, "millstream_deliveries_total", worker=n, **labels) for n in ("1", "2")] == [1, 2]
    assert value(page, "millstream_lag_events", group="g", topic="t") == 7
    assert [value(page, "millstream_ready", worker=n) for n in ("1", "2")] == [1, 1]
    assert page.count("# TYPE millstream_deliveries_total ") == 1
    assert page.count("\nmillstream_lag_events{") == 1
    assert merged({}) == ""


def test_every_metric_is_documented(request: pytest.FixtureRequest) -> None:
    """The reference page names each with its labels and its meaning."""
    text = (Path(request.config.rootpath) / "docs" / "reference" / "metrics.md").read_text()

    for name, (kind, labels, says) in METRICS.items():
        shown = f"{name}_total" if kind == "counter" else name
        assert f"| `{shown}` | {kind} | {', '.join(f'`{label}`' for label in labels) or '–'} | {says} |" in text
