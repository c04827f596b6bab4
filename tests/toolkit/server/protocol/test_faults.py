"""Each kind of error has its status, its code, and a message that tells no secrets."""

import asyncio
import concurrent.futures

import grpc
import pytest

from engines import errors
from toolkit.server.protocol import messages
from toolkit.server.protocol.faults import fault


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (messages.UnknownModelError("no model 'x'", "ask for 'm'"), 404, "NOT_FOUND"),
        (messages.TooLargeError("too large", "send less"), 413, "RESOURCE_EXHAUSTED"),
        (messages.UnauthorisedError("no token", "send one"), 401, "UNAUTHENTICATED"),
        (messages.UnavailableError("it drains", "ask again"), 503, "UNAVAILABLE"),
        (errors.InputError("wrong shape", "mend it"), 400, "INVALID_ARGUMENT"),
        (errors.DataError("no picture", "send one"), 400, "INVALID_ARGUMENT"),
        (errors.UnsupportedError("no such thing", "leave it out"), 400, "UNIMPLEMENTED"),
        (errors.MissingLibraryError("BF16", "ml_dtypes", "serve"), 400, "UNIMPLEMENTED"),
        (errors.Overloaded("full", "ask again"), 503, "UNAVAILABLE"),
        (errors.DeadlineExceeded("late", "give more"), 504, "DEADLINE_EXCEEDED"),
        (errors.RunError("the engine failed", "look"), 500, "INTERNAL"),
        (errors.ToolkitError("what", "ever"), 500, "INTERNAL"),
    ],
)
def test_an_error_of_the_toolkit_is_told_with_its_remedy(error, status, code):
    found = fault(error)
    assert (found.status, found.code) == (status, code)
    assert found.message == f"{error.cause} ({error.remedy})"
    assert (found.retry_after is not None) == (status == 503)
    assert grpc.StatusCode[found.code]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ValueError("/etc/secret"), 500, "INTERNAL"),
        (KeyError("/etc/secret"), 500, "INTERNAL"),
        (OSError(2, "/etc/secret"), 500, "INTERNAL"),
        (MemoryError("/etc/secret"), 500, "INTERNAL"),
        (TimeoutError("/etc/secret"), 504, "DEADLINE_EXCEEDED"),
        (asyncio.CancelledError("/etc/secret"), 499, "CANCELLED"),
        (concurrent.futures.CancelledError("/etc/secret"), 499, "CANCELLED"),
    ],
)
def test_any_other_error_is_told_without_its_text(error, status, code):
    found = fault(error)
    assert (found.status, found.code, found.retry_after) == (status, code, None)
    assert "secret" not in found.message
    assert found.message
    assert grpc.StatusCode[found.code]
