"""Bounds the memory of REST requests, each one and all together, before their JSON is parsed.

A few bytes of JSON become many bytes of Python objects: `[],` takes 85, and a gzip of them a
thousandth of that. So a request is charged by a count of its bytes and JSON tokens, as they arrive.
"""

import threading
import zlib
from collections.abc import Callable

from serving.local_server.status import Code, StatusError

MAX_BODY = 100 << 20  # Bytes, as sent and unpacked; TF Serving's limit for an unpacked body.
_MAX_REQUEST = 512 << 20  # Bytes of memory for one request,
_MAX_TOGETHER = 1 << 30  # and for all together.
# Upper bounds by measurement (CPython 3.11), from the arrival to the tensor, in bytes: of a byte of
# text; the same if it may be wider than a byte in Python's strings; and of a JSON token.
_PER_BYTE = 5
_PER_WIDE_BYTE = 10
_PER_TOKEN = {b",": 80, b"[": 80, b"{": 80, b":": 240, b'"': 30}
_PIECE = 1 << 18  # Bytes unpacked at a time, so that other threads get their turn.


class TooLarge(StatusError):
    """A request that is refused for its own size, in HTTP with status 413."""

    def __init__(self, message: str):
        super().__init__(Code.INVALID_ARGUMENT, message)


class RequestMemory:
    """The memory that requests in flight may take together. Safe for use by several threads.

    If a new request does not fit, the largest one that has not arrived completely is given up
    for it: clients that never finish their requests must not keep the others out.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = 0
        self._arriving: set[RequestBody] = set()

    def begin(self, on_refusal: Callable[[StatusError], None]) -> "RequestBody":
        """Returns the empty body of a new request.

        Args:
            on_refusal: Called, in any thread, if the body is given up while it arrives.
        """
        body = RequestBody(self, on_refusal)
        with self._lock:
            self._arriving.add(body)
        return body

    def take(self, body: "RequestBody", cost: int) -> None:
        """Charges a body; raises UNAVAILABLE if that is too much for all requests together."""
        busy = StatusError(
            Code.UNAVAILABLE,
            f"The requests in flight take {_MAX_TOGETHER >> 20} MiB of memory together, the limit "
            "of this server; send this one again later, or smaller ones.",
        )
        while True:
            with self._lock:
                if self._taken + cost <= _MAX_TOGETHER:
                    self._taken += cost
                    body.cost += cost
                    return
                largest = max(self._arriving, key=lambda other: other.cost, default=body)
                if largest.cost <= body.cost:
                    raise busy
                self._free(largest)
            largest.on_refusal(busy)

    def arrived(self, body: "RequestBody") -> bool:
        """Notes that a body is complete; returns False if it has been given up for another."""
        with self._lock:
            kept = body in self._arriving
            self._arriving.discard(body)
            return kept

    def give_back(self, body: "RequestBody") -> None:
        """Frees a body; does nothing for one that is free already."""
        with self._lock:
            self._free(body)

    def _free(self, body: "RequestBody") -> None:
        self._arriving.discard(body)
        self._taken -= body.cost
        body.cost = 0
        body.content = bytearray()


class RequestBody:
    """The body of one request, from its first byte until its answer is ready.

    Attributes:
        content: The bytes that have arrived.
        cost: Bytes of memory that the request is charged for.
        on_refusal: See `RequestMemory.begin`.
    """

    def __init__(self, memory: RequestMemory, on_refusal: Callable[[StatusError], None]):
        self.content = bytearray()
        self.cost = 0
        self.on_refusal = on_refusal
        self._memory = memory
        self._wide = False

    def add(self, piece: bytes, packed: bool) -> None:
        """Adds bytes that have arrived.

        Raises:
            StatusError: UNAVAILABLE, see `RequestMemory`; `TooLarge`.
        """
        self._charge(piece, len(self.content), packed)
        self.content += piece

    def unpack(self) -> None:
        """Replaces a gzip by its content, or by nothing if it is no gzip, as TF Serving does.

        Raises:
            StatusError: UNAVAILABLE, see `RequestMemory`; `TooLarge`.
        """
        packed, self.content = self.content, bytearray()
        unpacker = zlib.decompressobj(wbits=31)
        rest = memoryview(packed)
        try:
            for start in range(0, len(rest), _PIECE):
                piece = bytes(rest[start : start + _PIECE])
                while piece and not unpacker.eof:
                    self.add(unpacker.decompress(piece, _PIECE), packed=False)
                    piece = unpacker.unconsumed_tail
            # What is left is at most the end of the last piece: the input has been consumed.
            if not unpacker.eof:
                self.add(unpacker.flush(_PIECE), packed=False)
        except zlib.error:
            self.content = bytearray()
        if not unpacker.eof:
            self.content = bytearray()

    def _charge(self, piece: bytes, before: int, packed: bool) -> None:
        size = before + len(piece)
        if size > MAX_BODY:
            raise TooLarge(
                f"The body of the request has more than {MAX_BODY >> 20} MiB; send fewer instances."
            )
        cost = len(piece)
        if not packed:
            # Escapes and characters beyond ASCII make Python's strings wider, from the first on.
            if not self._wide and not (piece.isascii() and b"\\" not in piece):
                self._wide = True
                cost = before * (_PER_WIDE_BYTE - _PER_BYTE)
            else:
                cost = 0
            cost += len(piece) * (_PER_WIDE_BYTE if self._wide else _PER_BYTE)
            cost += sum(piece.count(token) * bytes_ for token, bytes_ in _PER_TOKEN.items())
        if self.cost + cost > _MAX_REQUEST:
            raise TooLarge(
                f"The JSON of the request would take more than {_MAX_REQUEST >> 20} MiB of memory; "
                "send fewer instances, or images as base64 instead of numbers."
            )
        self._memory.take(self, cost)
