"""What this machine can do with the toolkit, and what each missing piece would enable."""

import importlib.util
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from engines.header import RTX_CAPABILITIES
from engines.target import Target, detect

_TENSORRT = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")


@dataclass(frozen=True)
class Ability:
    """One thing that the toolkit does, and whether it can be done here.

    Attributes:
        name: a stable name for scripts ("run-tensorrt").
        title: the same for people.
        works: it can be done on this machine now.
        detail: with what, or why not.
        remedy: what to install or do; empty when it works or nothing helps here.
    """

    name: str
    title: str
    works: bool
    detail: str
    remedy: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """A machine and what it can do.

    Attributes:
        target: what is here.
        abilities: what that allows, in the order of the way from checkpoint to serving.
        problems: what is installed and can't work; empty on a healthy machine.
    """

    target: Target
    abilities: tuple[Ability, ...]
    problems: tuple[str, ...]

    @property
    def healthy(self) -> bool:
        """Nothing that is installed is broken. What is merely missing is no fault."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        return {
            "healthy": self.healthy,
            "target": self.target.to_json(),
            "abilities": [asdict(ability) for ability in self.abilities],
            "problems": list(self.problems),
        }


def diagnose(target: Target | None = None, *, importable: Callable[[str], bool] | None = None) -> Diagnosis:
    """Say what ``target`` (this machine when None) can do, and what it takes to do the rest.

    Args:
        target: as :func:`engines.target.detect` gives it.
        importable: tells whether a module can be found; given by tests of machines unlike this one.
    """
    target = target or detect()
    find = importable or _importable

    def here(module: str) -> bool:
        return module not in target.broken and find(module)

    abilities = (
        _packages(target, "train", "Train, and load checkpoints", ("torch",), "export", here),
        _packages(target, "export", "Export to ONNX and verify", ("torch", "onnx", "onnxscript"), "export", here),
        _packages(target, "images", "Read pictures", ("PIL",), "data", here),
        _packages(target, "digits", "The embedded digits data set", ("sklearn",), "data", here),
        _packages(target, "calibrate", "Calibrate and quantise", ("onnxruntime", "onnx"), "onnxruntime", here),
        _packages(target, "run-onnxruntime-cpu", "Run graphs on the CPU", ("onnxruntime",), "onnxruntime", here),
        _packages(target, "run-openvino", "Run graphs on the CPU (OpenVINO)", ("openvino",), "openvino", here),
        _run_torch_compile(target, here),
        _run_onnxruntime_cuda(target),
        _run_onnxruntime_tensorrt(target),
        _build_rtx(target, here),
        _run_rtx(target, here),
        _build_tensorrt(target, here),
        _run_tensorrt(target, here),
        _watch_gpus(target, here),
    )
    problems = list(target.problems)
    problems += [f"{module} is installed but fails to import: {why}" for module, why in target.broken.items()]
    problems += [
        f"ONNX Runtime lists {probe.name}, and it doesn't load: {probe.problem}"
        for probe in target.providers
        if target.gpus and not probe.loads and probe.name == "CUDAExecutionProvider"
    ]
    return Diagnosis(target, abilities, tuple(problems))


# Import name → distribution, where they differ.
_DISTRIBUTION = {"PIL": "pillow", "sklearn": "scikit-learn"}


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _packages(
    target: Target, name: str, title: str, modules: tuple[str, ...], extra: str, importable: Callable[[str], bool]
) -> Ability:
    missing = [module for module in modules if not importable(module)]
    if missing:
        lacks = ", ".join(_DISTRIBUTION.get(module, module) for module in missing)
        return Ability(name, title, works=False, detail=f"{lacks} is not installed", remedy=_pip(extra))
    found = (_version(target, module) for module in modules)
    return Ability(name, title, works=True, detail=", ".join(found))


def _version(target: Target, module: str) -> str:
    name = _DISTRIBUTION.get(module, module)
    if name == "onnxruntime" and name not in target.libraries:
        name = "onnxruntime-gpu"
    return f"{name} {target.libraries.get(name, '')}".strip()


def _run_onnxruntime_cuda(target: Target) -> Ability:
    name, title = "run-onnxruntime-cuda", "Run graphs on the GPU (ONNX Runtime)"
    if not target.gpus:
        return Ability(name, title, works=False, detail=_no_gpu(target), remedy=_elsewhere("onnxruntime-gpu"))
    probe = next((probe for probe in target.providers if probe.name == "CUDAExecutionProvider"), None)
    if probe is None:
        remedy = f"pip uninstall -y onnxruntime; {_pip('onnxruntime-gpu')}"
        return Ability(name, title, works=False, detail="ONNX Runtime has no CUDA provider here", remedy=remedy)
    if not probe.loads:
        return Ability(name, title, works=False, detail=probe.problem, remedy=_pip("onnxruntime-gpu"))
    return Ability(name, title, works=True, detail=f"{_version(target, 'onnxruntime')}, {target.gpus[0].name}")


def _run_torch_compile(target: Target, importable: Callable[[str], bool]) -> Ability:
    name, title = "run-torch-compile", "Run checkpoints compiled (torch.compile)"
    found = _packages(target, name, title, ("torch",), "export", importable)
    if found.works and not target.compiler:
        detail, remedy = "PyTorch finds no C++ compiler", "install g++, or name yours in the variable CXX"
        return Ability(name, title, works=False, detail=detail, remedy=remedy)
    return Ability(name, title, found.works, f"{found.detail}, {target.compiler}") if found.works else found


def _run_onnxruntime_tensorrt(target: Target) -> Ability:
    name, title = "run-onnxruntime-tensorrt", "Run graphs in TensorRT (ONNX Runtime)"
    cuda = _run_onnxruntime_cuda(target)
    probe = next((probe for probe in target.providers if probe.name == "TensorrtExecutionProvider"), None)
    if not target.gpus:
        return Ability(name, title, works=False, detail=cuda.detail, remedy=cuda.remedy)
    if probe is None:
        remedy = f"pip uninstall -y onnxruntime; {_pip('onnxruntime-gpu')}"
        return Ability(name, title, works=False, detail="ONNX Runtime has no TensorRT provider here", remedy=remedy)
    if not probe.loads:
        # It links one major version of TensorRT, which its own error names.
        return Ability(name, title, works=False, detail=probe.problem, remedy=_pip("tensorrt"))
    return Ability(name, title, works=True, detail=cuda.detail)


def _watch_gpus(target: Target, importable: Callable[[str], bool]) -> Ability:
    name, title = "watch-gpus", "Record clocks and heat of GPUs while measuring"
    if not target.gpus:
        return Ability(name, title, works=False, detail=_no_gpu(target), remedy=_elsewhere("tensorrt"))
    if not importable("pynvml"):
        detail = "nvidia-ml-py is not installed"
        return Ability(name, title, works=False, detail=detail, remedy=_pip("tensorrt"))
    return Ability(name, title, works=True, detail=_version(target, "nvidia-ml-py"))


def _build_rtx(target: Target, importable: Callable[[str], bool]) -> Ability:
    name, title = "build-rtx", "Build TensorRT for RTX engines (needs no GPU)"
    if not importable("tensorrt_rtx"):
        detail = "tensorrt-rtx is not installed"
        return Ability(name, title, works=False, detail=detail, remedy=_pip("tensorrt-rtx"))
    return Ability(name, title, works=True, detail=_version(target, "tensorrt-rtx"))


def _run_rtx(target: Target, importable: Callable[[str], bool]) -> Ability:
    name, title = "run-rtx", "Run TensorRT for RTX engines"
    supported = [gpu for gpu in target.gpus if gpu.compute_capability in RTX_CAPABILITIES]
    if not target.gpus:
        return Ability(name, title, works=False, detail=_no_gpu(target), remedy=_elsewhere("tensorrt-rtx"))
    if not supported:
        gpu = target.gpus[0]
        detail = (
            f"{gpu.name} has compute capability {gpu.compute_capability}; supported are {', '.join(RTX_CAPABILITIES)}"
        )
        return Ability(name, title, works=False, detail=detail, remedy="use TensorRT on this GPU")
    for module, package in (("tensorrt_rtx", "tensorrt-rtx"), ("cuda.core", "cuda-core")):
        if not importable(module):
            detail = f"{package} is not installed"
            return Ability(name, title, works=False, detail=detail, remedy=_pip("tensorrt-rtx"))
    return Ability(name, title, works=True, detail=f"{_version(target, 'tensorrt-rtx')}, {supported[0].name}")


def _build_tensorrt(target: Target, importable: Callable[[str], bool]) -> Ability:
    name, title = "build-tensorrt", "Build TensorRT engines"
    if not target.gpus:
        return Ability(name, title, works=False, detail=_no_gpu(target), remedy=_elsewhere("tensorrt"))
    if not importable("tensorrt"):
        return Ability(name, title, works=False, detail="tensorrt is not installed", remedy=_pip("tensorrt"))
    return Ability(name, title, works=True, detail=f"{_tensorrt(target)}, {target.gpus[0].name}")


def _run_tensorrt(target: Target, importable: Callable[[str], bool]) -> Ability:
    name, title = "run-tensorrt", "Run TensorRT engines"
    build = _build_tensorrt(target, importable)
    if build.works and not importable("cuda.core"):
        return Ability(name, title, works=False, detail="cuda-core is not installed", remedy=_pip("tensorrt"))
    return Ability(name, title, build.works, build.detail, build.remedy)


def _tensorrt(target: Target) -> str:
    version = next((target.libraries[name] for name in _TENSORRT if name in target.libraries), "")
    return f"tensorrt {version}".strip()


def _no_gpu(target: Target) -> str:
    return "the NVIDIA driver finds no GPU" if target.driver else "no NVIDIA GPU or driver on this machine"


def _elsewhere(extra: str) -> str:
    return f"on a machine with one: {_pip(extra)}"


def _pip(extra: str) -> str:
    return f"pip install 'onnx-tensorrt-toolkit[{extra}]'"
