"""The figures of /diagnostics for Prometheus, over HTTP on loopback. Needs the extra `metrics`."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isfinite
from socketserver import ThreadingMixIn
from time import monotonic
from typing import Any, TypeAlias
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from ovs_ros.ros.diagnostics import Report
from ovs_ros.ros.session import SESSION

ADDRESS = "127.0.0.1"
POLL_S = 0.1
"""How often the server looks whether it is closed."""

Kind: TypeAlias = type[CounterMetricFamily] | type[GaugeMetricFamily]
Family: TypeAlias = CounterMetricFamily | GaugeMetricFamily


class MetricsServer:
    """Serves http://127.0.0.1:PORT/metrics on threads of its own, until it is closed.

    Args:
        port: 1 to 65535.
        node: its full name.
        reports: called by those threads for what /diagnostics told last, a report for each camera.

    Raises:
        OSError: the port cannot be used.
    """

    def __init__(self, port: int, node: str, reports: Callable[[], Sequence[Report]]) -> None:
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(_Collector(node, reports))
        # The library's own server can only be stopped since 0.20; Ubuntu's package is older.
        self._server = make_server(ADDRESS, port, make_wsgi_app(registry), _Server, _Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_S,), name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a client that breaks off is no fault of the node."""


class _Handler(WSGIRequestHandler):
    timeout = 5.0
    """Seconds that a client may be silent."""

    def log_message(self, *args: Any) -> None:
        """Nothing: one line for each scrape would fill the terminal."""


class _Collector:
    """Makes metrics of the last reports when somebody asks for them. Nothing is measured for it."""

    def __init__(self, node: str, reports: Callable[[], Sequence[Report]]) -> None:
        self._node = node
        self._reports = reports

    def collect(self) -> Iterator[Family]:
        """The metrics, as the library calls for them at each scrape."""
        reports = self._reports()
        if reports:
            yield from _of_node(self._node, reports[0])
            yield from _of_cameras(reports)


def _of_node(name: str, report: Report) -> Iterator[Family]:
    def one(kind: Kind, metric: str, text: str, value: float, **labels: str) -> Family:
        family = kind(f"ovs_{metric}", text, labels=list(labels))
        family.add_metric(list(labels.values()), value)
        return family

    known, gauge, counter = report.condition, GaugeMetricFamily, CounterMetricFamily
    about = {"node": name, "model": known.model, "device": known.device, "session": SESSION}
    yield one(gauge, "info", "What runs; always 1.", 1, **about)
    yield one(gauge, "active", "1 while the node is active.", int(known.state == "active"))
    yield one(gauge, "report_age_seconds", "Age of these figures.", monotonic() - report.at)
    yield one(gauge, "vocabulary_version", "Version of the words.", known.vocabulary_version)
    yield one(gauge, "vocabulary_size", "Number of words.", known.vocabulary_size)
    yield one(gauge, "changes_waiting", "Changes of the words in the queue.", known.changes_waiting)
    yield one(gauge, "memory_fallbacks", "Steps taken because memory was full.", len(known.fallbacks))
    yield one(counter, "worker_restarts", "Deaths of the worker's thread.", known.deaths)


def _of_cameras(reports: Sequence[Report]) -> Iterator[Family]:
    def each(
        kind: Kind, metric: str, text: str, label: str, figures: Callable[[Report], Mapping[str, float]]
    ) -> Family:
        family = kind(f"ovs_{metric}", text, labels=["camera", label] if label else ["camera"])
        for report in reports:
            for key, value in figures(report).items():
                if isfinite(value):  # NaN: there were no frames.
                    family.add_metric([report.camera, key] if label else [report.camera], value)
        return family

    gauge, counter = GaugeMetricFamily, CounterMetricFamily
    yield each(gauge, "level", "Of /diagnostics: 0 OK, 1 WARN, 2 ERROR.", "", lambda r: {"": r.level})
    yield each(counter, "images", "Images that came.", "", lambda r: {"": r.summary.images})
    yield each(counter, "frames", "Published label images.", "", lambda r: {"": r.summary.frames})
    yield each(counter, "key_frames", "Frames that were segmented.", "", lambda r: {"": r.summary.key_frames})
    yield each(
        counter, "propagated_frames", "With another's labels.", "", lambda r: {"": r.summary.propagated}
    )
    yield each(counter, "dropped_frames", "Images without result.", "reason", lambda r: r.summary.dropped)
    yield each(gauge, "lost_ratio", "Images lost on the way.", "", lambda r: {"": r.summary.lost_share})
    yield each(gauge, "latency_seconds", "Time of a frame in the worker.", "quantile", _latencies)
    yield each(gauge, "input_age_seconds", "Age of an image once published.", "quantile", _ages)
    yield each(gauge, "stage_seconds", "Median time of a stage.", "stage", _stages)


def _quantiles(ms: tuple[float, float]) -> dict[str, float]:
    return {"0.5": ms[0] / 1e3, "0.95": ms[1] / 1e3}


def _latencies(report: Report) -> dict[str, float]:
    return _quantiles(report.summary.frame_ms)


def _ages(report: Report) -> dict[str, float]:
    return _quantiles(report.summary.age_ms)


def _stages(report: Report) -> dict[str, float]:
    return {stage: ms / 1e3 for stage, ms in report.summary.stages_ms.items()}
