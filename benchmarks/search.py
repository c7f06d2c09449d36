"""Builds and searches the approximate index of a large corpus of synthetic embeddings.

    python benchmarks/search.py --folder=/tmp/search --millions=1 3 10

The embeddings of size 512 resemble those of a trained encoder in what matters to an index: 1,000
clusters of unequal size and spread around a common mean, and inside of each a spectrum that decays
(variance of direction i ~ 1 / i). The noise of each is a sum of two of 65,536 Gaussian vectors, so
that ten million cost minutes. They are written as byol-embed writes them, in partitions of 131,072.

For each size: seconds to write and to build, bytes, recall of the 10 nearest as the build measured
it on 400 held-out embeddings, and times of 400 single queries (embeddings that are not in the
corpus, of the same mixture): `cold` is after the kernel's cache of the corpus was dropped, each
query for the first time, and `warm` the same queries again. `scan` compares all of them with all
embeddings, without an index. The memory is the greatest that was resident in the process, pages of
mapped files included.

Target: recall 0.95 at 10 million in less than 12 GiB. Predicted before the first run: 20 ms warm.
"""

import argparse
import os
import pathlib
import resource
import shutil
import statistics
import sys
import time
from typing import Any

import faiss
import numpy as np
import recording

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from serving.search import approximate, embeddings, partitions, scan
from serving.search.corpus import Corpus

SIZE, CLUSTERS, POOL = 512, 1_000, 1 << 16
QUERIES = 400


class Mixture:
    """The distribution of the embeddings."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        scale = (np.arange(1, SIZE + 1) ** -0.5).astype(np.float32)
        basis = np.linalg.qr(rng.normal(size=(SIZE, SIZE)))[0].astype(np.float32)
        normal = [rng.standard_normal((n, SIZE), dtype=np.float32) for n in (CLUSTERS, POOL)]
        self.centres = (normal[0] * scale + np.float32(0.15)) @ basis
        self.noise = (normal[1] * scale) @ basis
        self.spread = rng.uniform(0.4, 1.0, CLUSTERS).astype(np.float32)
        weights = np.arange(1, CLUSTERS + 1) ** -0.5
        self.weights = weights / weights.sum()

    def draw(self, seed: int, count: int) -> np.ndarray:
        """Returns embeddings, float32 `[count, SIZE]`."""
        rng = np.random.default_rng([1, seed])
        cluster = rng.choice(CLUSTERS, count, p=self.weights)
        first, second = rng.integers(POOL, size=(2, count))
        values = np.float32(0.8) * self.noise[first] + np.float32(0.6) * self.noise[second]
        return values * self.spread[cluster][:, None] + self.centres[cluster]


def write(folder: pathlib.Path, count: int, mixture: Mixture) -> float:
    """Adds partitions until there are `count` embeddings; returns the seconds."""
    start = time.perf_counter()
    done = len(partitions.paths(str(folder))) if folder.exists() else 0
    for number in range(done, -(-count // partitions.ROWS)):
        rows = min(partitions.ROWS, count - number * partitions.ROWS)
        blocks = (
            embeddings.Embeddings(
                [f"photos/{number:04d}/{first + row:07d}.jpg" for row in range(n)],
                mixture.draw(number * partitions.ROWS + first, n),
            )
            for first in range(0, rows, 8192)
            for n in [min(8192, rows - first)]
        )
        partitions.write(str(folder), blocks, {"root": "/", "model": {"synthetic": 1}})
    return time.perf_counter() - start


def drop_from_cache(folder: pathlib.Path) -> None:
    for path in [*folder.iterdir(), pathlib.Path(f"{folder}.faiss")]:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def milliseconds(index: approximate.Approximate, queries: np.ndarray) -> dict[str, float]:
    times = []
    for query in queries:
        start = time.perf_counter()
        index.nearest(query[None], 10)
        times.append(1e3 * (time.perf_counter() - start))
    return {
        "p50": round(statistics.median(times), 2),
        "p99": round(float(np.percentile(times, 99)), 2),
    }


def resident() -> float:
    """Returns the greatest resident memory of this process, in GiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20), 2)


def measure(folder: pathlib.Path, corpus: Corpus, queries: np.ndarray) -> dict[str, Any]:
    drop_from_cache(folder)
    start = time.perf_counter()
    index = approximate.open_index(corpus)
    opened = time.perf_counter() - start
    drop_from_cache(folder)
    cold = milliseconds(index, queries)
    warm = milliseconds(index, queries)
    start = time.perf_counter()
    _, exact = scan.nearest(corpus.blocks("comparing"), queries, 10)
    scanned = time.perf_counter() - start
    _, found = index.nearest(queries, 10)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, exact, strict=True)])
    return {
        "open_seconds": round(opened, 2),
        "cold_ms": cold,
        "warm_ms": warm,
        f"scan_seconds_{len(queries)}_queries": round(scanned, 1),
        f"recall_{len(queries)}_new_queries": round(float(recall), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", required=True, help="folder for up to 2.2 GB a million")
    parser.add_argument("--millions", type=float, nargs="+", default=[1.0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--note", default="")
    arguments = parser.parse_args()
    faiss.omp_set_num_threads(arguments.threads)
    os.makedirs(arguments.folder, exist_ok=True)
    mixture = Mixture()
    queries = mixture.draw(-1 % (1 << 32), QUERIES)
    for millions in arguments.millions:
        folder = pathlib.Path(arguments.folder) / f"{millions:g}m.parquet"
        count = round(millions * 1e6)
        written = write(folder, count, mixture)
        corpus = Corpus(str(folder))
        start, cpu = time.perf_counter(), time.process_time()
        header = approximate.build(corpus)
        built, cpu = time.perf_counter() - start, time.process_time() - cpu
        record = recording.context("faiss-cpu", "numpy", "pyarrow") | {
            "note": arguments.note,
            "threads": arguments.threads,
            "shape": [len(corpus), corpus.size],
            "write_seconds": round(written, 1),
            "build_seconds": round(built, 1),
            "build_cpu_seconds": round(cpu, 1),
            "corpus_bytes": sum(path.stat().st_size for path in folder.iterdir()),
            "index_bytes": os.path.getsize(f"{folder}.faiss"),
            "lists": header.lists,
            "code_bytes": header.codes,
            "probes": header.probes,
            "candidates": header.candidates,
            "recall": round(header.recall, 4),
            "peak_gib_after_build": resident(),
        }
        corpus = Corpus(str(folder))  # Opened again, without the pages that the build has read.
        record |= measure(folder, corpus, queries) | {"peak_gib": resident()}
        print(record, file=sys.stderr, flush=True)
        recording.append("search", record)
        del corpus
        shutil.rmtree(folder)
        os.remove(f"{folder}.faiss")


if __name__ == "__main__":
    main()
