"""Measures the endpoint's throughput against the model's own, its latency, and memory over time.

    python benchmarks/serving.py                       # ResNet-50, photos of 224 pixels
    python benchmarks/serving.py --network=resnet18    # a hundred times as many requests per second

A real `byol-serve` with serving/batching.config runs in its own process; this process sends
requests over loopback, on the same cores. The ceiling is the same SavedModel called in a third
process with the best batch size, timed before and after, while the others are idle.
  single    rising numbers of clients with one image per request, gRPC and REST
  whole     4 requests of 32 images at the same time
  half      latency of single images at random times (Poisson), at half of the maximum rate
  memory    memory of the server over --soak requests (108000 are one hour at 30 per second)

Target: gRPC at least 0.85 of the ceiling; memory flat.
"""

import argparse
import asyncio
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import recording
from input_pipeline import make_photos

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]
NETWORKS = {  # depth, width, image size, stem
    "resnet18-quarter": (18, 0.25, 32, "small"),
    "resnet18": (18, 1, 32, "small"),
    "resnet50": (50, 1, 224, "imagenet"),
}
BATCH_SIZES = (1, 4, 8, 16, 32, 64, 128)
CLIENTS = (1, 4, 16, 64, 128)
TARGET = 0.85
# Time before a measurement starts, as a fraction of --seconds: the first runs of each batch size
# are slow.
WARM_UP = 0.3


def export(folder: pathlib.Path, network: str) -> None:
    """Saves an encoder with random weights as version 1 of `byol`."""
    from byol_tf import export as byol_export
    from byol_tf.models import networks

    depth, width, size, stem = NETWORKS[network]
    byol_export.save_encoder(
        networks.resnet(depth, width, size, stem), folder / "byol" / "1", image_size=size
    )


def ceiling(model: pathlib.Path, files: list[bytes], seconds: float) -> dict[int, float]:
    """Measures images per second of the SavedModel in this process, by batch size."""
    import tensorflow as tf

    run = tf.saved_model.load(str(model)).signatures["serving_default"]
    speeds = {}
    for size in BATCH_SIZES:
        batch = tf.constant(list(itertools.islice(itertools.cycle(files), size)))
        run(image_bytes=batch)
        begin, count = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - begin) < seconds:
            run(image_bytes=batch)["embedding"].numpy()
            count += size
        speeds[size] = count / elapsed
    return speeds


def in_a_process(step: str, args: argparse.Namespace, folder: pathlib.Path) -> dict:
    """Runs a step in another process, which frees its TensorFlow; returns the JSON it prints."""
    command = [
        sys.executable,
        __file__,
        f"--network={args.network}",
        f"--seconds={args.seconds}",
        f"--step={step}",
    ]
    result = subprocess.run(
        [*command, f"--folder={folder}"], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(result.stdout.splitlines()[-1])


async def closed_loop(
    address: str, files: list[bytes], clients: int, size: int, seconds: float
) -> dict:
    """Measures clients that each send their next request when they have their answer."""
    from serving.client import AsyncEmbeddingClient

    latencies, ends, counting = [], [], time.perf_counter() + WARM_UP * seconds
    stop = counting + seconds
    async with AsyncEmbeddingClient(address, timeout=120, batch_size=size) as client:
        await client.embed(files[:1])

        async def one(number: int) -> None:
            position = number
            while time.perf_counter() < stop:
                batch = [files[(position + i) % len(files)] for i in range(size)]
                position += size * clients
                begin = time.perf_counter()
                await client.embed(batch)
                end = time.perf_counter()
                if end > counting:
                    latencies.append(end - begin)
                    ends.append(end)

        await asyncio.gather(*map(one, range(clients)))
    # The answers of a batch come together, so the time runs from the end of one batch to that of
    # another.
    first = min(ends)
    counted = [end for end in ends if first + 0.05 < end <= stop]
    return summary(latencies, len(counted) * size / (max(counted) - first))


async def open_loop(address: str, files: list[bytes], rate: float, seconds: float) -> dict:
    """Measures requests of one image sent at random times, however long their answers take."""
    from serving.client import AsyncEmbeddingClient

    rng = np.random.default_rng(0)
    latencies, running = [], []
    async with AsyncEmbeddingClient(address, timeout=120) as client:
        await client.embed(files[:1])

        async def one(file: bytes, due: float) -> None:
            await client.embed([file])
            # From when it was due, not from when it was sent.
            latencies.append(time.perf_counter() - due)

        begin = due = time.perf_counter()
        for file in itertools.cycle(files):
            due += rng.exponential(1 / rate)
            if due > begin + seconds:
                break
            await asyncio.sleep(max(0, due - time.perf_counter()))
            running.append(asyncio.ensure_future(one(file, due)))
        await asyncio.gather(*running)
    return summary(latencies, len(latencies) / seconds)


def summary(latencies: list[float], speed: float) -> dict:
    """Returns one measurement: images per second and percentiles of the latency."""
    p50, p99 = np.percentile(latencies, [50, 99]) * 1000
    return {"images_per_second": speed, "p50_ms": p50, "p99_ms": p99, "requests": len(latencies)}


def resident_mib(process: subprocess.Popen) -> float:
    """Returns the resident memory of a process in MiB."""
    with open(f"/proc/{process.pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024


def soak(process: subprocess.Popen, address: str, files: list[bytes], requests: int) -> list[float]:
    """Returns the warm server's memory in MiB, at the start and after every tenth of the calls."""
    memory = []
    tenth = requests // 10
    for _ in range(11):
        memory.append(resident_mib(process))
        if len(memory) <= 10:
            asyncio.run(send(address, files, tenth))
    return memory


async def send(address: str, files: list[bytes], count: int) -> None:
    """Sends `count` requests of one image from 32 clients."""
    from serving.client import AsyncEmbeddingClient

    left = iter(range(count))
    async with AsyncEmbeddingClient(address, timeout=120) as client:

        async def one() -> None:
            for number in left:
                await client.embed([files[number % len(files)]])

        await asyncio.gather(*(one() for _ in range(32)))


def main() -> None:
    """Runs the benchmark, prints its tables and records the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=NETWORKS, default="resnet50")
    parser.add_argument("--seconds", type=float, default=15, help="seconds per measurement")
    parser.add_argument(
        "--soak",
        type=int,
        default=0,
        help="requests over which to measure memory; 108000 are one hour at 30 per second",
    )
    parser.add_argument("--step", choices=["export", "ceiling"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step == "export":
        export(args.folder, args.network)
        print("{}")
        return
    if args.step == "ceiling":
        files = [file.read_bytes() for file in sorted((args.folder / "photos").iterdir())]
        print(json.dumps(ceiling(args.folder / "byol" / "1", files, args.seconds / 3)))
        return

    from serve import Server

    context = recording.context("tensorflow", "grpcio", "tornado")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "photos").mkdir()
        if args.network == "resnet50":
            make_photos(folder / "photos", 64)
        else:
            for number, file in enumerate(sorted((ROOT / "examples/images/test").glob("*/*.jpg"))):
                (folder / "photos" / f"{number:04d}.jpg").write_bytes(file.read_bytes())
        files = [file.read_bytes() for file in sorted((folder / "photos").iterdir())]
        in_a_process("export", args, folder)
        before = in_a_process("ceiling", args, folder)
        flags = (
            "--model_name=byol", f"--model_base_path={folder}/byol", "--enable_batching",
            f"--batching_parameters_file={ROOT}/serving/batching.config",
        )  # fmt: skip
        results = {}
        with Server(folder / "log", *flags) as server:
            for protocol, address in (("gRPC", server.address), ("REST", server.url)):
                for clients in CLIENTS:
                    name = f"{protocol} single, {clients} clients"
                    results[name] = asyncio.run(
                        closed_loop(address, files, clients, 1, args.seconds)
                    )
                results[f"{protocol} whole, 4 x 32"] = asyncio.run(
                    closed_loop(address, files, 4, 32, args.seconds)
                )
            for protocol, address in (("gRPC", server.address), ("REST", server.url)):
                single = (
                    r["images_per_second"]
                    for n, r in results.items()
                    if n.startswith(f"{protocol} single")
                )
                half = open_loop(address, files, max(single) / 2, 2 * args.seconds)
                results[f"{protocol} half load"] = asyncio.run(half)
            memory = soak(server.process, server.address, files, args.soak) if args.soak else []
        after = in_a_process("ceiling", args, folder)

    top = max(max(speeds.values()) for speeds in (before, after))
    spread = min(max(speeds.values()) for speeds in (before, after)) / top
    print(
        f"{args.network}, {context['cpu']}, {context['cores']} cores, load before {context['load']}"
    )
    print(f"ceiling: {top:.1f} images/s (the slower of its two runs {spread:.2f} of it)")
    print(f"{'':28} {'images/s':>9} {'of ceiling':>10} {'p50 ms':>9} {'p99 ms':>9}")
    for name, result in results.items():
        speed = result["images_per_second"]
        print(
            f"{name:28} {speed:9.1f} {speed / top:10.2f} "
            f"{result['p50_ms']:9.1f} {result['p99_ms']:9.1f}"
        )
    best = {
        p: max(r["images_per_second"] for n, r in results.items() if n.startswith(p)) / top
        for p in ("gRPC", "REST")
    }
    print(
        f"best of the ceiling: gRPC {best['gRPC']:.2f} (target {TARGET}), REST {best['REST']:.2f}"
    )
    if memory:
        print(
            f"memory over {args.soak} requests, MiB: {' '.join(f'{value:.0f}' for value in memory)}"
        )
    record = {
        "network": args.network,
        "ceiling": [before, after],
        "results": results,
        "ratios": best,
        "memory_mib": memory,
    }
    path = recording.append("serving", context | record | {"soak_requests": args.soak})
    print(f"recorded in {path.name}")


if __name__ == "__main__":
    main()
