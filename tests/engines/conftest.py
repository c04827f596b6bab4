"""The simulated GPU as fixtures."""

from typing import ClassVar

import pytest

import engines.cuda
import engines.cuda_graph
from engines.sessions import tensorrt
from engines.sessions.tensorrt import TensorRTSession
from tests.engines import simulated, simulated_driver, simulated_trt
from tests.tiny import METADATA


class Passport:
    metadata = METADATA
    options: ClassVar[dict] = {}


@pytest.fixture
def simulate(monkeypatch, tmp_path):
    """Opens a session of a simulated engine on the simulated GPU: TensorRT's, or that of the class given."""
    monkeypatch.setattr(engines.cuda, "cuda_core", lambda: simulated.core)
    monkeypatch.setattr(engines.cuda_graph, "cuda_driver", lambda: simulated_driver.Driver)
    monkeypatch.setattr(engines.cuda, "has_nvidia_driver", lambda: True)
    monkeypatch.setattr(tensorrt, "find_passport", lambda path: Passport)
    plan = tmp_path / "model.engine"
    plan.write_bytes(b"ftrt" + bytes(60))

    def open_simulated(engine=None, kind=TensorRTSession, **options):
        monkeypatch.setattr(tensorrt, "require", lambda *_: simulated_trt.library(engine))
        return kind(plan, check=False, **options)

    return open_simulated
