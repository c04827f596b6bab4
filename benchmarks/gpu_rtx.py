"""Whether TensorRT for RTX runs on this GPU, asked of the library itself.

Its documentation lists the compute capabilities that it builds for. A GPU outside the list may still run an engine,
or refuse it, or fail on it; so the engine that the builder makes by default, and one made for this GPU ("current"),
are loaded and run whatever the list says. Run by scripts/gpu-check, each in a process of its own:

    python -m benchmarks.gpu_rtx default|current
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ENGINES = ("default", "current")


def main(kind: str) -> dict[str, Any]:
    """Build, load and run one engine; what came of each step."""
    import onnx
    import tensorrt_rtx as trt

    from engines.cuda import CudaDevice
    from engines.header import RTX_CAPABILITIES
    from engines.sessions import open_session
    from tests.tiny import tiny_graph

    try:
        gpu = CudaDevice(0)
    except Exception as error:
        return {"engine": kind, "outcome": "not asked", "reason": _line(error)}
    answer: dict[str, Any] = {
        "engine": kind,
        "library": trt.__version__,
        "gpu": gpu.name,
        "compute_capability": gpu.compute_capability,
        "documented": gpu.compute_capability in RTX_CAPABILITIES,
    }
    with tempfile.TemporaryDirectory() as folder:
        graph, plan = Path(folder, "tiny.onnx"), Path(folder, "tiny.rtx.engine")
        onnx.save(tiny_graph(), graph)
        try:
            plan.write_bytes(_build(trt, graph, kind))
        except Exception as error:
            return answer | {"outcome": "not built", "reason": _line(error)}
        data = np.random.default_rng(0).standard_normal((4, 3, 16, 16)).astype(np.float32)
        with open_session(graph, device="cpu") as session:
            expected = session.run({"input": data})["logits"]
        try:
            session, answer["validity"] = _open(plan)
        except Exception as error:
            return answer | {"outcome": "refused", "reason": _line(error)}
        try:
            with session:
                logits = [session.run({"input": data})["logits"] for _ in range(3)][-1]
        except Exception as error:
            return answer | {"outcome": "failed", "reason": _line(error)}
    difference = float(np.abs(logits - expected).max())
    right = difference < 1e-2 * float(np.abs(expected).max())
    return answer | {"outcome": "runs" if right else "wrong", "max_abs_difference": difference}


def _build(trt: Any, graph: Path, kind: str) -> bytes:
    from engines.builders.log import library_logger

    logger = library_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        raise RuntimeError("the graph was not parsed")
    config = builder.create_builder_config()
    if kind == "current":
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.CURRENT, 0)
    profile = builder.create_optimization_profile()
    profile.set_shape("input", (1, 3, 16, 16), (4, 3, 16, 16), (8, 3, 16, 16))
    config.add_optimization_profile(profile)
    from engines.builders.log import listening

    with listening(trt) as log:
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RuntimeError(log.reason() or "the builder gave no reason")
    return bytes(plan)


def _open(plan: Path) -> tuple[Any, str]:
    """A session of the plan, and what the library thought of it before it was loaded."""
    from engines.sessions.tensorrt_rtx import RtxSession

    opinion: list[str] = []

    class Unjudged(RtxSession):
        def _judge(self, path: Path, data: bytes, gpu: Any) -> None:
            try:
                super()._judge(path, data, gpu)
                opinion.append("valid")
            except Exception as error:
                opinion.append(_line(error))

    try:
        return Unjudged(plan, check=False), opinion[0]
    except Exception as error:
        raise RuntimeError(f"{_line(error)}; judged before it was loaded: {opinion or 'nothing'}") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
