"""The toolkit's public API, resolved on first use: importing this pulls in nothing heavy.

::

    predictor = toolkit.load("model.fp16.engine")
    predictor.classify(["cat.jpg"])
"""

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engines.errors import DeadlineExceeded as DeadlineExceeded
    from engines.errors import InputError as InputError
    from engines.errors import Overloaded as Overloaded
    from engines.errors import ToolkitError as ToolkitError
    from engines.preprocess import Preprocess as Preprocess
    from engines.sessions import open_session as open_session
    from export.sources.description import Description as Description
    from toolkit.comparison.goal import Goal as Goal
    from toolkit.comparison.records.reading import read_record as read_record
    from toolkit.loading import load as load
    from toolkit.runtime.batcher import Batcher as Batcher
    from toolkit.runtime.predictor import Predictor as Predictor
    from toolkit.steps.bench import bench as bench
    from toolkit.steps.bisect import bisect as bisect
    from toolkit.steps.build import build_engine as build_engine
    from toolkit.steps.calibrate import calibrate as calibrate
    from toolkit.steps.compare import compare as compare
    from toolkit.steps.diff import diff as diff
    from toolkit.steps.diff import keep_baseline as keep_baseline
    from toolkit.steps.export import export as export
    from toolkit.steps.import_graph import import_graph as import_graph
    from toolkit.steps.package import package as package
    from toolkit.steps.predict import predict_to as predict_to
    from toolkit.steps.reports import show_records as show_records
    from toolkit.steps.sensitivity import sensitivity as sensitivity
    from toolkit.steps.serve import serve as serve
    from toolkit.steps.train import train as train
    from toolkit.steps.verify import verify as verify

__distribution__ = "onnx-tensorrt-toolkit"

_PUBLIC = {
    "Batcher": "toolkit.runtime.batcher",
    "DeadlineExceeded": "engines.errors",
    "Description": "export.sources.description",
    "Goal": "toolkit.comparison.goal",
    "InputError": "engines.errors",
    "Overloaded": "engines.errors",
    "Predictor": "toolkit.runtime.predictor",
    "Preprocess": "engines.preprocess",
    "ToolkitError": "engines.errors",
    "bench": "toolkit.steps.bench",
    "bisect": "toolkit.steps.bisect",
    "build_engine": "toolkit.steps.build",
    "calibrate": "toolkit.steps.calibrate",
    "compare": "toolkit.steps.compare",
    "diff": "toolkit.steps.diff",
    "export": "toolkit.steps.export",
    "import_graph": "toolkit.steps.import_graph",
    "keep_baseline": "toolkit.steps.diff",
    "load": "toolkit.loading",
    "open_session": "engines.sessions",
    "package": "toolkit.steps.package",
    "predict_to": "toolkit.steps.predict",
    "read_record": "toolkit.comparison.records.reading",
    "sensitivity": "toolkit.steps.sensitivity",
    "serve": "toolkit.steps.serve",
    "show_records": "toolkit.steps.reports",
    "train": "toolkit.steps.train",
    "verify": "toolkit.steps.verify",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'toolkit' has no attribute '{name}'")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_PUBLIC))


def _check_house() -> None:
    """Say so when an application's own module hides one of the three generic names that belong to this."""
    home = Path(__file__).resolve().parent.parent
    for name in ("engines", "export", "calibration"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None or Path(spec.origin).resolve().parent.parent != home:
            found = spec.origin if spec and spec.origin else "nothing"
            raise ImportError(
                f"toolkit needs its own package '{name}', but Python finds {found}: "
                f"rename that module, or put it behind toolkit's folder on sys.path"
            )


_check_house()
