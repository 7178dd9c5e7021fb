"""Errors of the service, and those of the HTTP API in OpenAI's format.

That is {"error": {"message", "type", "param", "code"}}.
"""

import dataclasses

from tempo_jax.errors import TempoError
from tempo_jax.serve.decoder import Cancelled

# HTTP status -> the type OpenAI's clients know it by; others below 500 are invalid requests.
TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class QueueFull(Exception):
    """The queue is full. retry_after: whole seconds after which a place is likely."""

    def __init__(self, retry_after: int):
        super().__init__(f"All places in the queue are taken: try again in {retry_after} seconds.")
        self.retry_after = retry_after


class ShuttingDown(Exception):
    """The server is shutting down."""


@dataclasses.dataclass(eq=False)
class ApiError(Exception):
    """message: one sentence; param: the request's field it is about; code: for programs."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    headers: dict[str, str] = dataclasses.field(default_factory=dict)

    def body(self) -> dict:
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        param = None if self.param is None else one_line(self.param)
        return {"error": {"message": one_line(self.message), "type": kind, "param": param, "code": self.code}}


def one_line(text: str) -> str:
    """Makes a message one line: names from clients may have line ends, control characters and surrogates."""
    return "".join(c if c.isprintable() else " " for c in text)


def api_error(error: Exception) -> ApiError:
    """Any exception as what a client gets to see."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFull):
        return ApiError(429, str(error), "queue_full", headers={"Retry-After": str(error.retry_after)})
    if isinstance(error, ShuttingDown):
        return ApiError(503, str(error), "shutting_down", headers={"Retry-After": "5"})
    if isinstance(error, TempoError):
        return ApiError(400, str(error), "invalid_value")
    return ApiError(500 if internal(error) else 503, describe(error), "internal_error")


def internal(error: Exception) -> bool:
    """Whether it is an internal error rather than invalid input."""
    return not isinstance(error, TempoError | QueueFull | ShuttingDown | Cancelled)


def describe(error: Exception) -> str:
    """The sentence for a user."""
    if internal(error):
        return "The server failed to answer; this is a bug, and the server's log says more."
    return str(error)
