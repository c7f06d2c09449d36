"""One try to load a version: complete, warm and counted, or an error and nothing left of it."""

import time

from serving.local_server import metrics, versions
from serving.local_server.batching import Batching
from serving.local_server.servable import Servable
from serving.local_server.status import Code, StatusError
from serving.local_server.warmup import warm_up


def load(path: str, batching: Batching | None) -> Servable:
    """A servable that has answered its warm-up requests.

    Args:
        path: of the version's folder.
        batching: how to batch across requests, or None.

    Raises:
        StatusError: of `Servable` and `warm_up`; ABORTED if the files changed on the way.
    """
    begin = time.perf_counter()
    before, _ = versions.fingerprint(path)
    servable = None
    try:
        servable = Servable(path, batching)
        warm = time.perf_counter()
        count = warm_up(servable, path)
        if versions.fingerprint(path)[0] != before:
            raise StatusError(Code.ABORTED, "the files changed while they were loaded")
    except Exception:
        if servable:
            servable.close()
        metrics.LOAD_ATTEMPTS.labels(path, "fail").inc()
        raise
    end = time.perf_counter()
    if count:
        metrics.WARMUP_LATENCY.labels(path, "OK").observe((end - warm) * 1e6)
    metrics.LOAD_LATENCY.labels(path).inc((end - begin) * 1e6)
    metrics.LOAD_ATTEMPTS.labels(path, "success").inc()
    return servable
