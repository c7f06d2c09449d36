"""Runs `byol-serve` as a separate process, for tests of the endpoint."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def free_port() -> int:
    """Returns a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A running `byol-serve`; a context manager that ends it.

    Args:
        log: File for its output.
        flags: Flags of the command; the ports are added.
        wait: Maximum seconds to wait until it listens; 0 to return at once.
        python: Interpreter to run it with.
    """

    def __init__(
        self,
        log: pathlib.Path,
        *flags: str,
        wait: float = 300.0,
        python: str = sys.executable,
    ):
        self.port, self.rest_port = free_port(), free_port()
        self.log = log
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"http://127.0.0.1:{self.rest_port}"
        command = [
            python, "-m", "serving.local_server.main",
            f"--port={self.port}", f"--rest_api_port={self.rest_port}", *flags,
        ]  # fmt: skip
        with log.open("w") as file:
            self.process = subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
            )
        if wait:
            self.wait_until_listening(wait)

    def wait_until_listening(self, seconds: float) -> None:
        """Waits until both ports are open; raises AssertionError if that fails."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise AssertionError(
                    f"byol-serve ended with {self.process.returncode}:\n{self.log.read_text()}"
                )
            if self.listens():
                return
            time.sleep(0.05)
        self.process.kill()
        raise AssertionError(
            f"byol-serve does not listen after {seconds} s:\n{self.log.read_text()}"
        )

    def listens(self) -> bool:
        """Returns whether both ports are open."""
        for port in (self.port, self.rest_port):
            with contextlib.closing(socket.socket()) as probe:
                if probe.connect_ex(("127.0.0.1", port)):
                    return False
        return True

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *unused) -> None:
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
