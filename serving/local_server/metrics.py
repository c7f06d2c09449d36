"""TF Serving's Prometheus metrics (util/prometheus_exporter.cc): names with colons, times in µs.

prometheus_client counts; its own text format would add `_total`, `_created` and HELP lines.
"""

from prometheus_client import CollectorRegistry, Counter, Histogram

_REGISTRY = CollectorRegistry()
_PREFIX = ":tensorflow:serving:"
# 10 · 1.8^k µs, as TF Serving's latencies; the last is half an hour.
_BUCKETS = [10 * 1.8**k for k in range(33)]

REQUESTS = Counter(
    f"{_PREFIX}request_count", "requests by code", ["model_name", "status"], registry=_REGISTRY
)
REQUEST_LATENCY = Histogram(
    f"{_PREFIX}request_latency", "of requests that succeeded", ["model_name", "API", "entrypoint"],
    buckets=_BUCKETS, registry=_REGISTRY,
)  # fmt: skip
RUNTIME_LATENCY = Histogram(
    f"{_PREFIX}runtime_latency", "of the model's run in them", ["model_name", "API", "runtime"],
    buckets=_BUCKETS, registry=_REGISTRY,
)  # fmt: skip
WARMUP_LATENCY = Histogram(
    f"{_PREFIX}model_warmup_latency", "of the warm-up at loading", ["model_path", "status"],
    buckets=_BUCKETS, registry=_REGISTRY,
)  # fmt: skip
LOAD_ATTEMPTS = Counter(
    ":tensorflow:cc:saved_model:load_attempt_count",
    "loads",
    ["model_path", "status"],
    registry=_REGISTRY,
)
LOAD_LATENCY = Counter(
    ":tensorflow:cc:saved_model:load_latency", "time of loads", ["model_path"], registry=_REGISTRY
)


def page() -> str:
    """All metrics as text."""
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
