"""One attempt to load a version: a warm servable, or an error that leaves nothing behind."""

import time

from serving.local_server import disk_versions, metrics
from serving.local_server.batching import Batching
from serving.local_server.servable import Servable
from serving.local_server.status import Code, StatusError
from serving.local_server.warmup import warm_up


def load(path: str, batching: Batching | None) -> Servable:
    """Loads a version, replays its warm-up requests and records both in the metrics.

    Args:
        path: Folder of the version.
        batching: Parameters of batching across requests, or None for no batching.

    Raises:
        StatusError: From `disk_versions.check`, `Servable` or `warm_up`; ABORTED if the files
            changed during the load.
    """
    begin = time.perf_counter()
    before, _ = disk_versions.fingerprint(path)
    servable = None
    try:
        disk_versions.check(path)
        servable = Servable(path, batching)
        warm = time.perf_counter()
        count = warm_up(servable, path)
        if disk_versions.fingerprint(path)[0] != before:
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
