"""What is told to whoever watches a worker: counts, times, and how things stand, as Prometheus reads them.

Every worker tells of itself alone. Labels are few and fixed: none names a project, a user or a medium. What stands
(lag, partitions, leases) is looked at when somebody asks; all of it is in memory.
"""

from collections.abc import Awaitable, Callable, Iterable
from time import perf_counter
from typing import get_args

from aiohttp import hdrs, web
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from streams.errors import Fault, NotReady
from streams.topics import SOURCES
from web.door import ELSEWHERE, Door
from web.routes import ACTIVE, ACTIVE_SET, LEASE, ROUTES

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
UNKNOWN = "unknown"  # a route or a method that nobody knows: what clients make up is no label
PATHS = {route.path for route in ROUTES}
METHODS = {*hdrs.METH_ALL} - {hdrs.METH_ANY}
SETS = {(route.method, route.path): "yes" if route.marks else "no" for route in (ACTIVE, ACTIVE_SET, LEASE)}
AGES_S = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 3600, 6 * 3600, 24 * 3600)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# A second series for each, which nobody reads; the library has one switch for all.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The counts and times of one worker, in a registry of its own.

    records: by topic and outcome (agents/curate.py). rejected: by fault. of: what agents count, by its name there.
    scoring: seconds of a chunk. rows, transactions: that were written. order_age: of the orders that were served from,
    and whether they were current. ends: of this worker's runs.
    """

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.records = Counter(
            "activeset_records",
            "Records of the source topics that are done with, by what became of them: heard (applied), moved (to the "
            "partition they belong to), rejected, skipped (they came again, or their partition has gone), postponed "
            "(others are missing before them: they are read again). Counted when what they changed is in Kafka.",
            ("topic", "outcome"),
            registry=registry,
        )
        self.rejected = Counter(
            "activeset_rejected_records",
            "Records that were found to be no events, by what is wrong; `python -m agents rejected` shows them.",
            ("reason",),
            registry=registry,
        )
        self.of = {
            "gaps": Counter(
                "activeset_gaps",
                "Records that Kafka has lost or cleaned away before one that was applied.",
                registry=registry,
            ),
            "rows left out": Counter(
                "activeset_rows_left_out",
                "Rows of inference artifacts that had a number that is not finite.",
                registry=registry,
            ),
            "extractors failed": Counter(
                "activeset_extractor_failures",
                "How often an extractor, or one label of it, had no answer for a chunk.",
                registry=registry,
            ),
        }
        self.scoring = Histogram(
            "activeset_scoring_seconds",
            "Seconds from the columns of an unseen chunk to its utilities, with the wait for a thread.",
            registry=registry,
        )
        self.rows = Counter(
            "activeset_rows_written", "Rows that Kafka and RocksDB have, written or deleted.", registry=registry
        )
        self.transactions = Counter(
            "activeset_transactions", "Transactions of the changelog in which rows were written.", registry=registry
        )
        self.requests = Counter(
            "activeset_http_requests",
            "HTTP requests, by the template of their route (unknown: there is none), method and status (none: nobody "
            "was answered). What is no HTTP is not counted.",
            ("route", "method", "status"),
            registry=registry,
        )
        self.request_seconds = Histogram(
            "activeset_http_request_seconds",
            "Seconds from the headers of an HTTP request to the headers of its answer, with the wait for its body.",
            ("route", "method"),
            registry=registry,
        )
        self.forwarded = Counter(
            "activeset_http_forwarded_requests",
            "HTTP requests that were forwarded to the worker that owns the project.",
            registry=registry,
        )
        self.sets = Counter(
            "activeset_active_sets",
            "Active sets that this worker itself was asked for as owner, by whether asking marks media, and by the "
            "status of the answer.",
            ("marks", "status"),
            registry=registry,
        )
        self.order_age = Histogram(
            "activeset_order_age_seconds",
            "How old, in seconds, the order is from which a set was served. current, yes: since it was asked for, and "
            "nothing of the project has changed since (it may be of any age); no: since the first change that it does "
            "not know.",
            ("current",),
            buckets=AGES_S,
            registry=registry,
        )
        self.ends = Counter(
            "activeset_ends",
            "Runs of this worker that are over, by what ended them; kept in its folder. killed: without a word, as by "
            "kill -9, for want of memory, or when its event loop hung.",
            ("reason",),
            registry=registry,
        )
        for fault in get_args(Fault):
            self.rejected.labels(fault)
        for current in ("yes", "no"):
            self.order_age.labels(current)
        ProcessCollector(registry=registry)

    def wrote(self, rows: int) -> None:
        """A transaction is written. rows: how many it has."""
        self.rows.inc(rows)
        self.transactions.inc()

    def served(self, age_s: float, current: bool) -> None:
        """A set was served from an order. age_s: of what it does not know, or if it is current, of the order."""
        self.order_age.labels("yes" if current else "no").observe(max(0.0, age_s))

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self.registry)


def measured(metrics: Metrics) -> Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]:
    """What counts and times every request; a middleware around all others."""

    @web.middleware
    async def measure(request: web.Request, handler: Handler) -> web.StreamResponse:
        began, status = perf_counter(), "none"
        try:
            answer = await handler(request)
            status = str(answer.status)
            return answer
        except web.HTTPException as why:
            status = str(why.status)
            raise
        finally:
            count(metrics, request, status, perf_counter() - began)

    return measure


def count(metrics: Metrics, request: web.Request, status: str, took_s: float) -> None:
    """Count a request that is over."""
    resource = request.match_info.route.resource
    path = resource.canonical if resource is not None and resource.canonical in PATHS else UNKNOWN
    method = request.method if request.method in METHODS else UNKNOWN
    metrics.requests.labels(path, method, status).inc()
    metrics.request_seconds.labels(path, method).observe(took_s)
    if ELSEWHERE in request:
        metrics.forwarded.inc()
    elif (method, path) in SETS:
        metrics.sets.labels(SETS[method, path], status).inc()


class Standing(Collector):
    """How a worker stands at the moment in which it is asked."""

    def __init__(self, door: Door, now: Callable[[], int]) -> None:
        """now: milliseconds since the epoch."""
        self._door = door
        self._now = now

    def collect(self) -> Iterable[Metric]:
        """The metrics; those of a partition are gone when it goes."""
        state = self._door.state
        yield GaugeMetricFamily("activeset_live", "1 while /livez is 200.", stands(self._door.check_live))
        yield GaugeMetricFamily("activeset_ready", "1 while /readyz is 200.", stands(self._door.check_ready))
        yield self._partitions()
        yield self._lag()
        yield CounterMetricFamily(
            "activeset_restored_rows", "Rows that were read back from the changelog.", state.restored
        )
        restoring = GaugeMetricFamily(
            "activeset_restoring_records",
            "Records of the changelog that are still to be read back, by partition, while it is restored.",
            labels=("partition",),
        )
        for number, count in sorted(state.restoring.items()):
            restoring.add_metric((str(number),), count)
        yield restoring
        yield GaugeMetricFamily(
            "activeset_leases",
            "Leases that have neither run out nor been given back whole: of the projects that were asked for since "
            "their partition came to this worker, and of others those that were granted since.",
            sum(each.leases.count(self._now()) for each in state.partitions),
        )
        yield GaugeMetricFamily(
            "activeset_rankings",
            "Projects whose rankings are in memory.",
            sum(len(each.rankings) for each in state.partitions),
        )

    def _partitions(self) -> Metric:
        """Partitions by how far they are."""
        partitions = self._door.state.partitions
        told = GaugeMetricFamily(
            "activeset_partitions",
            "Partitions of this worker: owned (Kafka's group has given them to it), restored (their rows are here), "
            "ready (and they have caught up with what was told before).",
            labels=("state",),
        )
        told.add_metric(("owned",), len(self._door.app.owned()))
        told.add_metric(("restored",), len(partitions))
        told.add_metric(("ready",), sum(each.caught_up for each in partitions))
        return told

    def _lag(self) -> Metric:
        """How far topics are behind."""
        told = GaugeMetricFamily(
            "activeset_lag_records",
            "Records that are in Kafka, as of up to five seconds ago, and not applied: of the partitions that are "
            "here.",
            labels=("topic", "partition"),
        )
        app, name = self._door.app, self._door.settings.name
        for each in self._door.state.partitions:
            for topic in SOURCES:
                applied = each.progress.get(topic.name, -1)
                end = each.ends.get(topic.name, 0)
                # Also behind what no record is: the marker of a transaction.
                behind = end - app.through(name(topic.name), each.number, applied) if end > applied + 1 else 0
                told.add_metric((topic.name, str(each.number)), max(0, behind))
        return told


def stands(check: Callable[[], object]) -> int:
    """1 if a check has nothing to say, else 0."""
    try:
        check()
    except NotReady:
        return 0
    return 1
