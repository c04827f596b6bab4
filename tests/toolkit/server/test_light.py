"""What the fronts load before somebody makes one."""

import pytest

from tests.test_architecture import HEAVY, loaded_by

WIRE = {"starlette", "uvicorn", "grpc", "tritonclient", "google", "prometheus_client", "python_multipart", "orjson"}


@pytest.mark.parametrize(
    "module", ["toolkit.server.http.app", "toolkit.server.grpc.server", "toolkit.server.listening"]
)
def test_a_front_is_imported_without_the_libraries_of_the_wire(module: str) -> None:
    assert loaded_by(f"import {module}") & (WIRE | HEAVY) == set()


def test_http_is_served_without_the_libraries_of_grpc() -> None:
    code = """
from types import SimpleNamespace
from toolkit.server.http.app import make_app
from toolkit.server.settings import FrontSettings
make_app(SimpleNamespace(), FrontSettings(), SimpleNamespace())
"""
    assert loaded_by(code) & {"grpc", "tritonclient", "google", "prometheus_client"} == set()
