"""Layer types read out of a TensorRT for RTX plan, on any machine.

The engine inspector needs a GPU. But the plan's compiler keeps its programs as text inside the plan: one main
program and a small one for each fusion that is compiled on the target, each with its tensors' types and the
operations in order. Seen in plans of TensorRT for RTX 1.7, of FP32, FP16, BF16, INT8 and FP8 graphs::

    header { ... accelerators={sm80 } }
    descriptors { tensor={ ... name="x.1" ... type=half } ... }
    main { label bb1:
      corrltn={ name="conv1_U0" output={"y" } input={"x.1" "w" ... } ... layers="[ONNX Layer: conv1]" }
      runtime_fusion={ ... }
    }

How far this can be trusted: these are the operations that the runtime compiles, so a float convolution can't hide
behind an INT8 one, and types agree with the builder's own verbose layer listing (a test compares the two). The
text is not a documented format: when it changes, no convolutions are found, and the audit fails rather than passes.
Which kernel is finally chosen is decided on the target machine, within these types.
"""

import mmap
import re
from collections.abc import Iterator
from pathlib import Path

from engines.builders.audit import Kind, Layer, LayerReport, onnx_nodes, widest
from engines.errors import EngineFormatError
from engines.files import unreadable

_START = re.compile(rb"header \{\n  version = ")
_END = re.compile(rb"\0")
_TENSOR = re.compile(r'^ *(?:sub_)?tensor=\{.*? name="([^"\n]*)".*? type=(\w+) \}', re.MULTILINE)
_OPERATION = re.compile(r'^ +(\w+)=\{ name="?([^" \n]*)"? .*$', re.MULTILINE)
_QUOTED = r'=\{ ?((?:"[^"\n]*" ?)*)\}'
_INPUTS = (re.compile(r" input" + _QUOTED), re.compile(r" input_args" + _QUOTED))
_LAYERS = re.compile(r' layers="([^"\n]*)"')

_KINDS: dict[str, Kind] = {
    "corrltn": "conv",
    "correlation": "conv",
    "convolution": "conv",
    "deconvolution": "conv",
    "fully_connected": "matmul",
    "gemm": "matmul",
}
_TYPES = {"float": "fp32", "half": "fp16", "bf16": "bf16", "int8": "int8", "fp8_e4m3": "fp8"}

# A fusion's operations stand in a program of its own; shape arithmetic and copies compute nothing of the network.
_SKIPPED = {"runtime_fusion", "shape_call", "copy", "memset"}


def read_rtx_layers(path: Path) -> LayerReport:
    """The layers of the plan at ``path``, which is mapped, not loaded.

    Raises:
        InputError: the file can't be read.
        EngineFormatError: it holds no program.
    """
    try:
        with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
            return rtx_layers(plan)
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:  # an empty file can't be mapped
        raise EngineFormatError(f"'{path}' is empty", "build or copy the engine again") from error


def rtx_layers(plan: bytes | memoryview | mmap.mmap) -> LayerReport:
    """The layers of a plan in memory, those of the main program first.

    Raises:
        EngineFormatError: it holds no program.
    """
    layers: dict[Layer, None] = {}
    found = False
    for text in _programs(plan):
        found = True
        layers.update(dict.fromkeys(_layers(text)))
    if not found:
        raise EngineFormatError(
            "no program was found in the plan, so its layers can't be read",
            "the plan is damaged, or of a newer TensorRT for RTX than this toolkit knows",
        )
    return LayerReport(tuple(layers), "plan")


def _programs(plan: bytes | memoryview | mmap.mmap) -> Iterator[str]:
    end = 0
    while start := _START.search(plan, end):
        stop = _END.search(plan, start.end())
        end = stop.start() if stop else len(plan)
        yield bytes(plan[start.start() : end]).decode("utf-8", "replace")


def _layers(program: str) -> Iterator[Layer]:
    descriptors, _, body = program.partition("\nmain {")
    types = {name: _TYPES.get(kind, _eight_bit(kind)) for name, kind in _TENSOR.findall(descriptors)}
    for match in _OPERATION.finditer(body.partition("\n}")[0]):
        operation, name = match.groups()
        if operation in _SKIPPED:
            continue
        reads = [types.get(tensor, "unknown") for tensor in _inputs(match.group())]
        kind = _KINDS.get(operation, "other")
        nodes = _LAYERS.search(match.group())
        yield Layer(name, onnx_nodes(nodes.group(1)) if nodes else (), kind, _computes_on(operation, reads))


def _inputs(operation: str) -> list[str]:
    for pattern in _INPUTS:
        if match := pattern.search(operation):
            return re.findall(r'"([^"]*)"', match.group(1))
    return []


def _computes_on(operation: str, reads: list[str]) -> str:
    if operation in _KINDS:
        return widest(reads[:2])  # data and weights; what follows are scales and bias
    if operation == "function":
        return widest(reads)  # a generated kernel: operands come in any order
    return widest(reads[:1])


def _eight_bit(kind: str) -> str:
    return "fp8" if re.fullmatch(r"(?:fp8|f8|float8|e4m3)\w*", kind) else kind
