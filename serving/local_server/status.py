"""Status codes, and the one exception with which a request fails in both protocols."""

import enum

import tensorflow as tf
from absl import logging


class Code(enum.IntEnum):
    """Canonical status codes, with the numbers of TensorFlow, gRPC and `StatusProto`."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


# From TF Serving's model_servers/http_server.cc; other codes are 500.
HTTP_STATUS = {
    Code.OK: 200,
    Code.INVALID_ARGUMENT: 400,
    Code.FAILED_PRECONDITION: 400,
    Code.OUT_OF_RANGE: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.ABORTED: 409,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.CANCELLED: 499,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}


class StatusError(Exception):
    """Failure of a request, a load or a reload.

    Attributes:
        code: Canonical status code.
        message: Message for the client.
    """

    def __init__(self, code: Code, message: str):
        super().__init__(message)
        self.code = code
        self.message = message


def invalid(message: str) -> StatusError:
    """Returns an INVALID_ARGUMENT error, the most common one."""
    return StatusError(Code.INVALID_ARGUMENT, message)


def as_status(error: Exception) -> StatusError:
    """Converts an exception: TensorFlow's errors keep their code, others become INTERNAL.

    The message of an INTERNAL error starts with the exception's type: a KeyError's text alone says
    nothing.
    """
    if isinstance(error, StatusError):
        return error
    if isinstance(error, tf.errors.OpError):
        # Python's session puts this heading before the runtime's text.
        return StatusError(
            Code(error.error_code), error.message.removeprefix("Graph execution error:").strip()
        )
    if isinstance(error, MemoryError):
        return StatusError(Code.RESOURCE_EXHAUSTED, "Not enough memory for this request.")
    return StatusError(Code.INTERNAL, f"{type(error).__name__}: {error}")


def reported(error: Exception) -> StatusError:
    """Returns the status for the client; logs the exception with its trace if it is a bug."""
    status = as_status(error)
    if status.code == Code.INTERNAL and not isinstance(error, StatusError):
        logging.error("a request failed", exc_info=error)
    return status
