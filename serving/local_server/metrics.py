"""TF Serving's Prometheus metrics (util/prometheus_exporter.cc): names with colons, times in µs.

prometheus_client counts, but this module writes the page: prometheus_client's own text format would
add `_total`, `_created` and HELP lines.
"""

import time
from types import TracebackType

from prometheus_client import CollectorRegistry, Counter, Histogram

from serving.local_server.status import Code, as_status

_REGISTRY = CollectorRegistry()
_PREFIX = ":tensorflow:serving:"
# 10 · 1.8^k µs, the buckets of TF Serving's latencies; the last one ends at half an hour.
_BUCKETS = [10 * 1.8**k for k in range(33)]

REQUESTS = Counter(
    f"{_PREFIX}request_count", "requests by code", ["model_name", "status"], registry=_REGISTRY
)
REQUEST_LATENCY = Histogram(
    f"{_PREFIX}request_latency", "latency of successful requests",
    ["model_name", "API", "entrypoint"], buckets=_BUCKETS, registry=_REGISTRY,
)  # fmt: skip
RUNTIME_LATENCY = Histogram(
    f"{_PREFIX}runtime_latency", "time of a request spent in the model",
    ["model_name", "API", "runtime"], buckets=_BUCKETS, registry=_REGISTRY,
)  # fmt: skip
WARMUP_LATENCY = Histogram(
    f"{_PREFIX}model_warmup_latency", "time of the warm-up when a version loads",
    ["model_path", "status"], buckets=_BUCKETS, registry=_REGISTRY,
)  # fmt: skip
LOAD_ATTEMPTS = Counter(
    ":tensorflow:cc:saved_model:load_attempt_count",
    "attempts to load a version",
    ["model_path", "status"],
    registry=_REGISTRY,
)
LOAD_LATENCY = Counter(
    ":tensorflow:cc:saved_model:load_latency",
    "time of successful loads",
    ["model_path"],
    registry=_REGISTRY,
)


class Counted:
    """Counts one call by its code and, if it succeeds, records its latency. A context manager.

    Args:
        model_name: Name of the model, from `ModelStore.known_name`: clients could make up any
            number of names, and each would become a time series.
        api: API that was called, such as "Predict".
        entrypoint: Protocol, "GRPC" or "REST".
    """

    def __init__(self, model_name: str, api: str, entrypoint: str):
        self._name = model_name
        self._labels = (api, entrypoint)

    def __enter__(self) -> None:
        self._begin = time.perf_counter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            code = Code.OK
        else:
            code = as_status(error).code if isinstance(error, Exception) else Code.CANCELLED
        REQUESTS.labels(self._name, code.name).inc()
        if code == Code.OK:
            _observe(REQUEST_LATENCY.labels(self._name, *self._labels), self._begin)


def observe_run(model_name: str, begin: float) -> None:
    """Records the latency of a run of the model that began at `begin` (`time.perf_counter`)."""
    _observe(RUNTIME_LATENCY.labels(model_name, "Predict", "TF1"), begin)


def _observe(latency: Histogram, begin: float) -> None:
    latency.observe((time.perf_counter() - begin) * 1e6)


def page() -> str:
    """Returns all metrics as text."""
    lines = []
    for family in _REGISTRY.collect():
        lines.append(f"# TYPE {family.name} {family.type}")
        for sample in family.samples:
            if sample.name.endswith("_created"):
                continue
            name = sample.name.removesuffix("_total")
            labels = ",".join(f'{key}="{_escaped(value)}"' for key, value in sample.labels.items())
            lines.append(f"{name}{{{labels}}} {sample.value:.15g}")
    return "\n".join(lines) + "\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
