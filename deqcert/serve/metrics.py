"""What a service counts of itself, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
FULL = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Metrics:
    """The counters of one service.

    Args:
        inside: Returns how many requests are being worked on.
        rows: Returns how many rows wait to be solved.
        batch: Rows that are solved together.
    """

    def __init__(self, inside: Callable[[], float], rows: Callable[[], float], batch: int) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter(
            "deqcert_requests", "Requests by HTTP status.", ["mode", "status"], registry=registry
        )
        self.seconds = Histogram(
            "deqcert_request_seconds",
            "Seconds from a request's arrival to its answer.",
            ["mode"],
            buckets=SECONDS,
            registry=registry,
        )
        self.abstentions = Counter(
            "deqcert_abstentions", "Certificates that abstain.", registry=registry
        )
        self.rows = Counter(
            "deqcert_rows", "Rows solved: noisy copies and clean inputs.", registry=registry
        )
        self.evaluations = Counter(
            "deqcert_cell_evaluations", "Evaluations of the cell, all rows.", registry=registry
        )
        self.fill = Histogram(
            "deqcert_batch_fill",
            "Share of a batch in use when solved rows are handed on.",
            buckets=FULL,
            registry=registry,
        )
        inside_now = Gauge("deqcert_requests_inside", "Requests worked on.", registry=registry)
        inside_now.set_function(inside)
        waiting = Gauge("deqcert_rows_waiting", "Rows that wait to be solved.", registry=registry)
        waiting.set_function(rows)
        self._batch = batch

    def solved(self, rows: int, nfe: float, running: int) -> None:
        """Count solved rows, and how full the batch is."""
        self.rows.inc(rows)
        self.evaluations.inc(nfe)
        self.fill.observe(min(running / self._batch, 1.0))

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)
