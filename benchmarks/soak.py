"""Attacks a byol-serve for an hour and measures how honest clients fare meanwhile.

    python benchmarks/soak.py --minutes=60

A real `byol-serve`, which may open 1024 files, serves a small encoder on loopback. Honest clients
over gRPC and REST send one image each at a steady rate and compare each answer with the first. One
attacker at a time sends what strangers may send, in turns:
  rows          8 gRPC messages of 54 bytes that stand for 22,000,000 images, cancelled after 3 s
  scans         4 progressive JPEGs of 1 MB with 9,000 scans of 8192 x 8192 pixels
  sub-blocks    4 GIFs with a million sub-blocks of one byte
  json-gzip     a body of 100 KB that unpacks to 90 million bytes of brackets
  json-plain    a body of 60 MB of brackets
  unfinished    12 bodies of 255 MB that stop half-way
  connections   1,100 connections that say nothing
  slow-headers  100 requests whose headers arrive byte by byte
  reload        a gRPC request to serve another folder
  empty         images of no pixels
Reported: latency and failures of the honest requests, the answers to the attacks, the server's
memory, open files and log, and how long it takes to end in the middle of an attack.

Target: every honest request is answered, right and in time.
"""

import argparse
import collections
import contextlib
import gzip
import http.client
import io
import multiprocessing
import os
import pathlib
import random
import resource
import socket
import sys
import tempfile
import threading
import time

import numpy as np
import recording

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]
HONEST_TIMEOUT = 30  # Seconds.
HONEST_RATE = 2  # Requests per second of each of the two clients.
HELD = 5  # Seconds for which an attack holds its connections.


def progressive_jpeg(scans: int) -> bytes:
    """Returns a flat grey JPEG of 8192 x 8192 pixels with its last, empty scan repeated."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("L", (8192, 8192), 90).save(file, "JPEG", progressive=True)
    body = file.getvalue()[:-2]
    return body + body[body.rindex(b"\xff\xda") :] * scans + b"\xff\xd9"


def gif_of_sub_blocks(count: int) -> bytes:
    """Returns a GIF of one pixel whose data come in sub-blocks of one byte."""
    head = b"GIF89a\x01\x00\x01\x00\x80\x00\x00" + bytes(6)
    return head + b"\x2c" + bytes(4) + b"\x01\x00\x01\x00\x00\x02" + b"\x01\x00" * count + b"\x00;"


class Attacks:
    """What strangers send; each method is one attack and returns the answers it got."""

    def __init__(self, address: str, rest_port: int):
        self.address, self.rest_port = address, rest_port
        self.jpeg = progressive_jpeg(9000)
        self.gif = gif_of_sub_blocks(1_000_000)
        self.zipped = gzip.compress(b'{"instances":[' + b"[]," * 30_000_000 + b"[]]}")
        self.plain = b'{"instances":[' + b"[]," * 20_000_000 + b"[]]}"

    def all(self) -> dict:
        return {
            "rows": self.rows,
            "scans": lambda: self.files(self.jpeg),
            "sub-blocks": lambda: self.files(self.gif),
            "json-gzip": lambda: [self.post(self.zipped, {"Content-Encoding": "gzip"})],
            "json-plain": lambda: [self.post(self.plain)],
            "unfinished": self.unfinished,
            "connections": self.connections,
            "slow-headers": self.slow_headers,
            "reload": self.reload,
            "empty": self.empty,
        }

    def rows(self) -> list[str]:
        return self.pixels([22_000_000, 1, 1, 3], times=8, cancel_after=3)

    def empty(self) -> list[str]:
        return self.pixels([1, 0, 5, 3], times=1, cancel_after=None)

    def pixels(self, shape: list[int], times: int, cancel_after: float | None) -> list[str]:
        from tensorflow.core.framework import tensor_shape_pb2
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = "byol", "pixels"
        request.inputs["images"].dtype = 4  # uint8
        request.inputs["images"].tensor_shape.CopyFrom(
            tensor_shape_pb2.TensorShapeProto(
                dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=size) for size in shape]
            )
        )
        request.inputs["images"].int_val.append(7)
        return self.predict([request] * times, cancel_after)

    def files(self, file: bytes) -> list[str]:
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        request.model_spec.name = "byol"
        request.inputs["image_bytes"].dtype = 7  # string
        request.inputs["image_bytes"].tensor_shape.dim.add().size = 1
        request.inputs["image_bytes"].string_val.append(file)
        return self.predict([request] * 4, None)

    def predict(self, requests: list, cancel_after: float | None) -> list[str]:
        """Sends all at the same time; returns the status codes."""
        import grpc
        from tensorflow_serving.apis import prediction_service_pb2_grpc

        answers = []
        with grpc.insecure_channel(self.address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            calls = [stub.Predict.future(request, timeout=HONEST_TIMEOUT) for request in requests]
            if cancel_after:
                end = time.monotonic() + cancel_after
                while time.monotonic() < end and not all(call.done() for call in calls):
                    time.sleep(0.05)
                for call in calls:
                    call.cancel()
            for call in calls:
                try:
                    call.result()
                    answers.append("OK")
                except grpc.FutureCancelledError:
                    answers.append("cancelled by the attacker")
                except grpc.RpcError as error:
                    answers.append(error.code().name)
        return answers

    def reload(self) -> list[str]:
        import grpc
        from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc

        request = model_management_pb2.ReloadConfigRequest()
        model = request.config.model_config_list.config.add()
        model.name, model.base_path, model.model_platform = "byol", "/proc", "tensorflow"
        with grpc.insecure_channel(self.address) as channel:
            stub = model_service_pb2_grpc.ModelServiceStub(channel)
            try:
                stub.HandleReloadConfigRequest(request, timeout=HONEST_TIMEOUT)
                return ["OK"]
            except grpc.RpcError as error:
                return [error.code().name]

    def post(self, body: bytes, headers: dict[str, str] | None = None) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.rest_port, HONEST_TIMEOUT)
        try:
            connection.request("POST", "/v1/models/byol:predict", body, headers or {})
            return str(connection.getresponse().status)
        except OSError as error:  # The server need not read to the end of what it refuses.
            return type(error).__name__
        finally:
            connection.close()

    def unfinished(self) -> list[str]:
        head = (
            b"POST /v1/models/byol:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 255000000\r\n\r\n"
        )
        half = bytes(120_000_000)
        return self.held([head + half] * 12)

    def connections(self) -> list[str]:
        return self.held([b""] * 1100)

    def held(self, sent: list[bytes]) -> list[str]:
        """Opens a connection for each of `sent`, sends it, and waits."""
        answers: list[str] = []

        def one(data: bytes, stack: contextlib.ExitStack) -> None:
            try:
                connection = socket.create_connection(("127.0.0.1", self.rest_port), HELD)
                stack.callback(connection.close)
                connection.sendall(data)
                answers.append("held" if not data else "sent")
            except OSError as error:
                answers.append(type(error).__name__)

        with contextlib.ExitStack() as stack:
            if len(sent) > 50:
                for data in sent:
                    one(data, stack)
            else:
                threads = [threading.Thread(target=one, args=(data, stack)) for data in sent]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            time.sleep(HELD)
        return answers

    def slow_headers(self) -> list[str]:
        with contextlib.ExitStack() as stack:
            connections = []
            for _ in range(100):
                with contextlib.suppress(OSError):
                    connection = socket.create_connection(("127.0.0.1", self.rest_port), HELD)
                    stack.callback(connection.close)
                    connections.append(connection)
            closed = 0
            for byte in b"GET / HTTP":
                for connection in list(connections):
                    try:
                        connection.sendall(bytes([byte]))
                    except OSError:
                        closed += 1
                        connections.remove(connection)
                time.sleep(HELD / 10)
        return ["held"] * len(connections) + ["closed"] * closed


class Honest:
    """A client that sends one image at a steady rate and checks the answers."""

    def __init__(self, name: str, address: str, image: bytes):
        from serving.client import EmbeddingClient

        self.name, self.image = name, image
        self.client = EmbeddingClient(address, timeout=HONEST_TIMEOUT)
        self.expected = self.client.embed([image])
        self.latencies: list[float] = []
        self.failures: collections.Counter[str] = collections.Counter()

    def run(self, until: float) -> None:
        due = time.monotonic()
        while (due := due + 1 / HONEST_RATE) < until:
            time.sleep(max(0.0, due - time.monotonic()))
            begin = time.monotonic()
            try:
                embedding = self.client.embed([self.image])
            except Exception as error:  # Whatever it is, the request was not answered.
                self.failures[f"{type(error).__name__}: {error}"[:200]] += 1
            else:
                self.latencies.append(time.monotonic() - begin)
                if not np.allclose(embedding, self.expected, rtol=1e-4, atol=1e-5):
                    self.failures["a wrong answer"] += 1


def be_honest(addresses: dict[str, str], image: bytes, minutes: float, answers) -> None:
    """Runs the honest clients, in a process of their own, and puts what they saw into `answers`."""
    clients = [Honest(name, address, image) for name, address in addresses.items()]
    until = time.monotonic() + 60 * minutes
    threads = [threading.Thread(target=client.run, args=(until,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = {}
    for client in clients:
        latencies = 1000 * np.array(client.latencies)
        seen[client.name] = {
            "requests": len(latencies) + sum(client.failures.values()),
            "failures": dict(client.failures),
            "p50_ms": round(float(np.percentile(latencies, 50))),
            "p99_ms": round(float(np.percentile(latencies, 99))),
            "max_ms": round(float(latencies.max())),
        }
    answers.put(seen)


def watch(pid: int, log: pathlib.Path, until: float, seen: dict) -> None:
    """Keeps the largest values of the server's memory, open files and log."""
    while time.monotonic() < until:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        kib = int(status.split("VmRSS:")[1].split()[0])
        seen["rss_mib"].append(kib // 1024)
        seen["files"].append(len(os.listdir(f"/proc/{pid}/fd")))
        seen["log_kib"] = log.stat().st_size // 1024
        time.sleep(0.5)


def main() -> None:
    """Runs the soak, prints and records the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60, help="length (default 60)")
    parser.add_argument("--only", nargs="*", help="attacks to send (default: all)")
    args = parser.parse_args()
    # The attacker may open more files than the server.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))

    from serve import Server

    from byol_tf import export
    from byol_tf.models import networks

    context = recording.context("tensorflow", "grpcio", "tornado")
    image = sorted((ROOT / "examples" / "images").glob("test/*/*.jpg"))[0].read_bytes()
    with tempfile.TemporaryDirectory() as work:
        folder = pathlib.Path(work)
        encoder = networks.resnet(18, 0.25, 32, "small")
        export.save_encoder(encoder, folder / "byol" / "1", image_size=32)
        log = folder / "server.log"
        with Server(
            log,
            "--model_name=byol",
            f"--model_base_path={folder / 'byol'}",
            "--enable_batching=true",
            f"--batching_parameters_file={ROOT / 'serving' / 'batching.config'}",
        ) as server:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            attacks = Attacks(server.address, server.rest_port)
            processes = multiprocessing.get_context("spawn")
            queue = processes.Queue()
            addresses = {"gRPC": server.address, "REST": server.url}
            clients = processes.Process(
                target=be_honest, args=(addresses, image, args.minutes, queue), daemon=True
            )
            clients.start()
            until = time.monotonic() + 60 * args.minutes
            seen: dict = {"rss_mib": [], "files": [], "log_kib": 0}
            watching = (server.process.pid, log, until, seen)
            threading.Thread(target=watch, args=watching, daemon=True).start()
            answers: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
            chosen = {
                name: attack
                for name, attack in attacks.all().items()
                if not args.only or name in args.only
            }
            shuffle = random.Random(0).sample
            while time.monotonic() < until:
                for name in shuffle(sorted(chosen), len(chosen)):
                    begin = time.monotonic()
                    answers[name].update(chosen[name]())
                    print(f"{name}: {time.monotonic() - begin:.1f} s", flush=True)
                    if time.monotonic() > until:
                        break
            honest = queue.get(timeout=120 + 2 * HONEST_TIMEOUT)
            # It ends in the middle of an attack.
            last = threading.Thread(target=attacks.rows, daemon=True)
            last.start()
            time.sleep(1)
            begin = time.monotonic()
            server.process.terminate()
            server.process.wait(120)
            seen["seconds_to_end"] = round(time.monotonic() - begin, 1)

    for name, one in honest.items():
        print(name, one)
    for name, counts in sorted(answers.items()):
        print(f"{name:14}", dict(counts))
    memory = {
        "start": seen["rss_mib"][0],
        "max": max(seen["rss_mib"]),
        "end": seen["rss_mib"][-1],
    }
    server_facts = {
        "rss_mib": memory,
        "max_files": max(seen["files"]),
        "log_kib": seen["log_kib"],
        "seconds_to_end": seen["seconds_to_end"],
    }
    print("server", server_facts)
    record = {"minutes": args.minutes, "honest": honest, "server": server_facts}
    record["attacks"] = {name: dict(counts) for name, counts in answers.items()}
    print(f"recorded in {recording.append('soak', context | record).name}")
    if any(one["failures"] for one in honest.values()):
        sys.exit("honest requests failed")


if __name__ == "__main__":
    main()
