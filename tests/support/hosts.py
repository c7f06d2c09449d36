"""Hosts on one machine: network namespaces with addresses of their own, joined by a bridge."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator

_NETWORK = "10.83.0"


def missing() -> str | None:
    """Returns why hosts cannot be made here, or None."""
    if not shutil.which("ip"):
        return "there is no ip command (package iproute2)"
    if os.geteuid() != 0:
        return "network namespaces need root"
    made = subprocess.run(["ip", "netns", "add", "byol-probe"], capture_output=True, text=True)
    if made.returncode:
        return f"no network namespace: {made.stderr.strip()}"
    _ip("netns", "delete", "byol-probe")
    return None


class Hosts:
    """Several hosts; host i has the address `addresses[i]`."""

    def __init__(self, count: int):
        prefix = f"byol{os.getpid()}"
        self.addresses = [f"{_NETWORK}.{10 + number}" for number in range(count)]
        self._bridge = f"br{os.getpid()}"
        self._names = [f"{prefix}-{number}" for number in range(count)]
        self._links = [f"v{os.getpid()}-{number}" for number in range(count)]

    def start(self) -> None:
        """Makes the namespaces and joins them."""
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("link", "set", self._bridge, "up")
        for name, link, address in zip(self._names, self._links, self.addresses, strict=True):
            _ip("netns", "add", name)
            _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", link, "master", self._bridge, "up")
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")

    def stop(self) -> None:
        """Removes the namespaces and the bridge."""
        for name in self._names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "delete", self._bridge], check=False, capture_output=True)

    def command(self, number: int, command: list[str]) -> list[str]:
        """Returns the command line that runs `command` on a host."""
        return ["ip", "netns", "exec", self._names[number], *command]

    def cut(self, number: int) -> None:
        """Pulls the cable of a host: nothing is refused, nothing arrives."""
        _ip("link", "set", self._links[number], "down")

    def join(self, number: int) -> None:
        """Puts the cable of a host back."""
        _ip("link", "set", self._links[number], "up")


@contextlib.contextmanager
def started(count: int) -> Iterator[Hosts]:
    """Yields hosts, and removes them."""
    hosts = Hosts(count)
    try:
        hosts.start()
        yield hosts
    finally:
        hosts.stop()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
