"""Every API name that the TensorRT adapters use exists in the real bindings of each supported version.

The bindings of ``tensorrt`` are small wheels that import without a GPU against stub libraries of nine C symbols;
classes and enums are then real. Those of TensorRT for RTX are installed here and checked directly.
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NoReturn

import pytest

import engines
from tests.engines.trt_names import Use, missing, uses_in, uses_in_text

rtx = pytest.importorskip("tensorrt_rtx")

VERSIONS = ("10.13.3.9", "10.16.1.11", "11.4.0.106")
SYMBOLS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getBuilderPluginRegistry",
    "getPluginRegistry",
    "getNvOnnxParserVersion",
    "initLibNvInferPlugins",
)
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")

LOOK_UP = """
import json, sys
import tensorrt_bindings
from tests.engines.trt_names import missing
print(json.dumps([tensorrt_bindings.__version__, missing(tensorrt_bindings, json.load(sys.stdin))]))
"""

ROOT = Path(engines.__file__).parents[1]


def adapters() -> list[Path]:
    """The source files that talk to TensorRT: those that say ``trt``, and the one that runs what it made."""
    files = [path for folder in ("builders", "sessions") for path in (ROOT / "engines" / folder).glob("*.py")]
    return sorted(path for path in files if "trt." in path.read_text() or path.stem == "plan_runner")


def adapter_uses() -> list[Use]:
    return [use for path in adapters() for use in uses_in(path, rtx)]


def unavailable(reason: str) -> NoReturn:
    """Skip on a developer's machine; in CI the check has to run."""
    if os.environ.get("CI"):
        pytest.fail(f"in CI the API check must run: {reason}")
    pytest.skip(reason)


def cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "onnx-tensorrt-toolkit" / "bindings"


def wheel(version: str) -> Path:
    """The bindings' wheel for this Python, from the cache or by pip."""
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    folder = cache() / version
    pattern = f"tensorrt_cu13_bindings-{version}-{tag}-*.whl"
    if not list(folder.glob(pattern)):
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--dest", str(folder), f"tensorrt-cu13-bindings=={version}"]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        if result.returncode:
            last = (result.stderr.strip().splitlines() or ["no message"])[-1]
            unavailable(f"pip can't download the bindings of TensorRT {version}: {last}")
    found = list(folder.glob(pattern))
    if not found:
        unavailable(f"no bindings of TensorRT {version} for {tag}")
    return found[0]


@pytest.fixture(scope="module", params=VERSIONS)
def bindings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A version, and a folder with its real bindings and stubs of the libraries that they link."""
    version: str = request.param
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        unavailable("compiling the stub libraries needs gcc on Linux")
    folder = tmp_path_factory.mktemp(f"trt{version}")
    with zipfile.ZipFile(wheel(version)) as archive:
        archive.extractall(folder)
    source = folder / "stub.c"
    source.write_text("\n".join(f"void *{symbol}(void) {{ return 0; }}" for symbol in SYMBOLS))
    for library in LIBRARIES:
        name = f"lib{library}.so.{version.split('.', maxsplit=1)[0]}"
        flags = ["-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name)]
        subprocess.run([compiler, *flags, str(source)], check=True)
    return version, folder


def missing_in(bindings: tuple[str, Path], names: list[str]) -> list[str]:
    """Those of ``names`` that the bindings don't have, looked up in a process of their own."""
    version, folder = bindings
    result = subprocess.run(
        [sys.executable, "-c", LOOK_UP],
        input=json.dumps(names),
        env={**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    imported, absent = json.loads(result.stdout)
    assert imported == version
    return list(absent)


def test_the_adapters_use_only_names_that_tensorrt_has(bindings: tuple[str, Path]) -> None:
    used = {use.name: use.place for use in adapter_uses() if use.scope != "rtx"}
    assert {name: used[name] for name in missing_in(bindings, list(used))} == {}


def test_the_adapters_use_only_names_that_tensorrt_for_rtx_has() -> None:
    used = {use.name: use.place for use in adapter_uses() if use.scope != "datacentre"}
    assert {name: used[name] for name in missing(rtx, list(used))} == {}


def test_the_check_sees_the_calls_that_build_and_run_an_engine() -> None:
    names = {use.name for use in adapter_uses()}
    assert {
        "Builder.create_network",
        "BuilderFlag.TF32",
        "IBuilderConfig.add_optimization_profile",
        "IProgressMonitor.step_complete",
        "IOptimizationProfile.set_shape",
        "ParserError.node_operator",
        "ITimingCache.serialize",
        "EngineInspector.get_engine_information",
        "ILayer.metadata",
        "Runtime.deserialize_cuda_engine",
        "IExecutionContext.execute_async_v3",
        "IRuntimeConfig.cuda_graph_strategy",
        "BuilderFlag.STRIP_PLAN",
        "BuilderFlag.VERSION_COMPATIBLE",
        "HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY",
        "OnnxParserRefitter.refit_from_file",
        "Refitter.get_missing_weights",
        "Runtime.engine_host_code_allowed",
    } <= names
    assert not [name for name in names if name.startswith("IInt8")]


OLD_CODE = """
def build(trt, logger):
    builder = trt.Builder(logger)
    config = builder.create_builder_config()
    config.int8_calibrator = trt.IInt8EntropyCalibrator2()
    engine = trt.Runtime(logger).deserialize_cuda_engine(b"")
    return engine.device_memory_size, builder.create_network(0)

def build_rtx(trt, config):
    config.num_compute_capabilities = 1
"""


def test_code_that_tensorrt_11_no_longer_runs_is_found(bindings: tuple[str, Path]) -> None:
    used = {use.name for use in uses_in_text(OLD_CODE, "old.py", rtx) if use.scope != "rtx"}
    gone = {"IInt8EntropyCalibrator2", "IBuilderConfig.int8_calibrator", "ICudaEngine.device_memory_size"}
    assert gone | {"Builder.create_network"} <= used
    assert set(missing_in(bindings, sorted(used))) == (gone if bindings[0].startswith("11.") else set())


def test_what_only_rtx_has_is_checked_there_alone(bindings: tuple[str, Path]) -> None:
    (use,) = (use for use in uses_in_text(OLD_CODE, "old.py", rtx) if use.scope == "rtx")
    assert use.name == "IBuilderConfig.num_compute_capabilities"
    assert missing(rtx, [use.name]) == []
    assert missing_in(bindings, [use.name]) == [use.name]


BUILD = """
import sys
from pathlib import Path
import tensorrt_bindings
sys.modules["tensorrt"] = tensorrt_bindings
from engines.builders.options import BuildOptions
from engines.builders.tensorrt import build_plan
from engines.errors import UnsupportedError
graph = Path(sys.argv[1])
for options in (BuildOptions(), BuildOptions(compute_capabilities=("8.9",))):
    try:
        build_plan(graph, "tensorrt", options)
    except UnsupportedError as error:
        print(error.cause)
"""


def test_tensorrt_without_a_gpu_says_so_and_names_the_way_that_needs_none(
    bindings: tuple[str, Path], tmp_path: Path
) -> None:
    _, folder = bindings
    graph = tmp_path / "model.onnx"
    graph.write_bytes(b"not even read")
    result = subprocess.run(
        [sys.executable, "-c", BUILD, str(graph)],
        env={**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    first, second = result.stdout.splitlines()
    assert first.startswith("TensorRT can't build on this machine")
    assert second.startswith("tensorrt doesn't honour --compute-capability")
