"""Prometheus metrics of a worker, counted through the one observer seam."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from millstream.app import queries
from millstream.app.app import App
from millstream.contracts.errors import MillstreamError
from millstream.core.broker import Delivery
from millstream.core.observe import Outcomes

if TYPE_CHECKING:
    from prometheus_client.core import Metric

#: Upper bounds of the buckets of durations, in seconds.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
#: Lag and sizes are asked for at most so often, in seconds, however often they are scraped.
FRESH = 2.0

#: Every metric: its kind, its labels, and what it says.
METRICS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "millstream_deliveries": ("counter", ("group", "handler", "outcome"), "Deliveries by what became of them, each attempt for itself"),
    "millstream_started": ("counter", ("group",), "Deliveries that were taken up"),
    "millstream_published": ("counter", ("group", "type"), "Events that handlers published"),
    "millstream_handling_seconds": ("histogram", ("group", "handler"), "Time that handlers took"),
    "millstream_waiting_seconds": ("histogram", ("group",), "Time from an event's publishing to the start of its handling"),
    "millstream_lag_events": ("gauge", ("group", "topic"), "Events that the group has still to pass; absent while it is unknown"),
    "millstream_lag_seconds": ("gauge", ("group",), "How long the oldest of them has waited; absent while it is unknown"),
    "millstream_parked": ("gauge", ("group",), "Deliveries in the store: to be retried, queued behind another, or dead"),
    "millstream_dead_letters": ("gauge", ("group",), "Those of them that nobody tries again"),
    "millstream_paused": ("gauge", ("group",), "1 while an operator has paused the group"),
    "millstream_outbox_events": ("gauge", (), "Events that are committed and not yet at the broker"),
    "millstream_ready": ("gauge", (), "1 while the worker can settle deliveries"),
}


#: The values of a series' labels.
Series = tuple[str, ...]


class Histogram:
    """Counts per bucket of one series; cheaper than a call into a client library for each event."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.sum += seconds

    def buckets(self) -> Iterator[tuple[str, float]]:
        """Cumulative, as Prometheus wants them."""
        passed = 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self.counts, strict=True):
            passed += count
            yield bound, passed


class Metrics:
    """An `Observer` that counts, and the collector that renders what it has counted.

    Make one for each App, and put it into `app.observers` before the App is opened.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._deliveries: dict[Series, float] = {}
        self._started: dict[Series, float] = {}
        self._published: dict[Series, float] = {}
        self._handling: dict[Series, Histogram] = {}
        self._waiting: dict[Series, Histogram] = {}
        self._gauges: dict[str, dict[Series, float]] = {}
        self._sampled = float("-inf")

    def started(self, group: str, deliveries: Sequence[Delivery]) -> None:
        self._started[group,] = self._started.get((group,), 0) + len(deliveries)

    def settled(self, outcomes: Outcomes) -> None:
        counts, published = self._deliveries, self._published
        for outcome in outcomes:
            group, handler = outcome.group, outcome.handler
            series = (group, handler, outcome.kind)
            counts[series] = counts.get(series, 0) + 1
            for envelope in outcome.published:
                made = (group, envelope.type)
                published[made] = published.get(made, 0) + 1
            if outcome.worked:
                histogram = self._handling.get((group, handler))
                if histogram is None:
                    histogram = self._handling[group, handler] = Histogram()
                histogram.add(outcome.worked)
            if outcome.kind in ("handled", "retry", "parked") and outcome.attempt == 1:
                histogram = self._waiting.get((group,))
                if histogram is None:
                    histogram = self._waiting[group,] = Histogram()
                histogram.add(outcome.waited)

    async def sample(self) -> None:
        """Ask broker and store for what is not counted: lag, what is parked, the outbox."""
        app = self._app
        now = app.clock.monotonic()
        if now - self._sampled < FRESH:
            return
        self._sampled = now
        gauges: dict[str, dict[Series, float]] = {"millstream_ready": {(): float(not app.troubles())}}
        try:
            gauges["millstream_outbox_events"] = {(): float(await app.store.outbox_size())}
            for state in await queries.groups(app.broker, app.store, app.clock):
                if state.paused is not None:
                    _note(gauges, state)
        except MillstreamError:
            # Absent is the honest value of what cannot be asked; readiness says why.
            pass
        self._gauges = gauges

    def collect(self) -> Iterable["Metric"]:
        """What the Prometheus client asks a collector for; may be called from any thread."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        # Copies, because the worker's thread goes on counting.
        counters = {
            "millstream_deliveries": self._deliveries.copy(),
            "millstream_started": self._started.copy(),
            "millstream_published": self._published.copy(),
        }
        histograms = {"millstream_handling_seconds": self._handling.copy(), "millstream_waiting_seconds": self._waiting.copy()}
        for name, (kind, labels, text) in METRICS.items():
            if kind == "counter":
                counter = CounterMetricFamily(name, text, labels=labels)
                for series, value in counters[name].items():
                    counter.add_metric(series, value)
                yield counter
            elif kind == "histogram":
                family = HistogramMetricFamily(name, text, labels=labels)
                for series, histogram in histograms[name].items():
                    family.add_metric(series, list(histogram.buckets()), histogram.sum)
                yield family
            else:
                gauge = GaugeMetricFamily(name, text, labels=labels)
                for series, value in self._gauges.get(name, {}).items():
                    gauge.add_metric(series, value)
                yield gauge

    def render(self) -> bytes:
        """All of it in Prometheus' text format; slow enough to be called in a thread."""
        from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

        registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=registry)
        registry.register(self)
        return generate_latest(registry)


def _note(gauges: dict[str, dict[Series, float]], state: queries.GroupState) -> None:
    """Enter what is known of one group."""

    def set_(name: str, series: Series, value: float | None) -> None:
        if value is not None:
            gauges.setdefault(name, {})[series] = float(value)

    for topic in state.topics:
        lag = queries.total([queries.lag_of(each) for each in state.partitions if each.partition.topic == topic])
        set_("millstream_lag_events", (state.name, topic), lag.value)
    set_("millstream_lag_seconds", (state.name,), state.age.seconds)
    set_("millstream_parked", (state.name,), state.parked)
    set_("millstream_dead_letters", (state.name,), state.dead)
    set_("millstream_paused", (state.name,), state.paused)
