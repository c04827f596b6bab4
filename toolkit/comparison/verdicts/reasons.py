"""The reasons that a record holds for a narrow precision that is no faster: each only where its evidence is there."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from toolkit.benchmarking.timing import Interval
from toolkit.comparison.figures import listed, milliseconds, ratio
from toolkit.comparison.records.record import Row
from toolkit.comparison.verdicts.measured import Measured, surely_faster

INTEGER_DOT = ("avx512_vnni", "avx_vnni", "amx_int8")
"""Extensions of x86 that multiply and add 8-bit integers in one instruction."""

WIDE = 1.1
"""An interval whose bounds are further apart than this factor leaves open what a longer measurement would tell."""

_PLACED = {"tensorrt": "TensorRT", "onnxruntime": "ONNX Runtime"}


@dataclass(frozen=True)
class Case:
    """A row that is no faster than one of a wider precision.

    Attributes:
        ratios: its speed as a multiple of that of ``wider``, at the batch sizes where it isn't surely faster.
    """

    measured: Measured
    row: Row
    wider: Row
    ratios: Mapping[int, Interval]

    @property
    def on_cpu(self) -> bool:
        return self.row.opened is not None and self.row.opened.info.device == "cpu"

    @property
    def backend(self) -> str:
        return self.row.opened.info.backend if self.row.opened else ""

    @property
    def precision(self) -> str:
        return self.row.layers.precision if self.row.layers else ""


@dataclass(frozen=True)
class Reason:
    """One reason.

    Attributes:
        key: "float-layers", "fell-back", "not-fused", "no-kernels", "no-integer-dot", "overhead", "unknown".
        text: behind "because".
        facts: the evidence; values of JSON.
        remedy: what to do about it, a sentence; empty where there is nothing.
    """

    key: str
    text: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    remedy: str = ""


def reasons_of(case: Case) -> Iterator[Reason]:
    """What the record shows, the plainest first; nothing where it shows nothing."""
    for find in _FINDERS:
        reason = find(case)
        if reason is not None:
            yield reason


def unknown_reason(case: Case) -> Reason:
    """What to say, and to do, where the record shows no reason."""
    wide = [batch for batch, one in case.ratios.items() if is_wide(one)]
    if wide:
        return Reason(
            "unknown",
            "the intervals are too wide to tell",
            {"wide": wide},
            "Measure longer: --seconds 5 --rounds 100.",
        )
    path = shlex.quote(case.row.path)
    look = f"`toolkit inspect {path}` shows its layers"
    if case.on_cpu:
        return Reason("unknown", "the record shows no reason", {}, f"{look}; other work on the machine may be one.")
    return Reason("unknown", "the record shows no reason", {}, f"{look}, `nsys profile` which kernels they take.")


def is_wide(ratio: Interval) -> bool:
    """Whether a ratio's interval holds both being equally fast and being much faster or slower."""
    if ratio.low is None or ratio.high is None:
        return False
    return ratio.contains(1) and ratio.high > WIDE * ratio.low


def _fell_back(case: Case) -> Reason | None:
    proof = case.row.proof
    if proof is None or not proof.fallbacks:
        return None
    return Reason(
        "fell-back",
        f"not all of it ran where it was asked to: {listed(proof.fallbacks, 3)}",
        {"provider": proof.provider, "fallbacks": list(proof.fallbacks), "shares": dict(proof.shares)},
    )


def _float_layers(case: Case) -> Reason | None:
    layers = case.row.layers
    if layers is None or not layers.float_layers:
        return None
    wide = [kind.upper() for kind in layers.shares if kind != layers.precision]
    stayed = len(layers.float_layers)
    return Reason(
        "float-layers",
        f"{stayed} of {layers.heavy} convolutions and matrix products stayed in {listed(wide)}: "
        f"{listed(layers.float_layers)}",
        {"float_layers": list(layers.float_layers), "heavy": layers.heavy, "shares": dict(layers.shares)},
    )


def _not_fused(case: Case) -> Reason | None:
    layers = case.row.layers
    if layers is None or not layers.unfused or case.backend != "onnxruntime" or not case.on_cpu:
        return None
    placed = _PLACED.get(layers.placement or "", "")
    whose = f"its Q/DQ nodes are placed for {placed}, and " if placed and layers.placement != "onnxruntime" else ""
    quantised = layers.heavy - len(layers.float_layers)
    which = "all of its" if len(layers.unfused) == quantised else f"{len(layers.unfused)} of its {quantised}"
    text = (
        f"{whose}ONNX Runtime's CPU kernels compute {which} quantised layers in float, converting around each "
        f"({listed(layers.unfused)})"
    )
    return Reason(
        "not-fused", text, {"placement": layers.placement, "unfused": list(layers.unfused)}, _use_instead(case)
    )


def _use_instead(case: Case) -> str:
    """The artifact among the rivals that is placed for ONNX Runtime, or the command that builds one."""
    for other in case.measured.rivals(case.row):
        same = other.layers is not None and other.layers.precision == case.precision and other.opened is not None
        if not same or other.layers is None or other.layers.unfused or not other.speeds or other.opened is None:
            continue
        if (other.opened.info.backend, other.opened.info.device) != ("onnxruntime", "cpu"):
            continue
        batch = min(case.ratios)
        faster = case.measured.ratio(other, case.row, batch)
        if surely_faster(faster):
            return f"Use {other.name}, placed for ONNX Runtime: {ratio(faster)} its speed at batch {batch}."
    if case.precision != "int8" or (case.row.layers is not None and case.row.layers.placement == "onnxruntime"):
        return ""
    graph = case.wider.path if case.wider.path.endswith(".onnx") and _is_master(case.wider) else "MODEL.onnx"
    command = f"toolkit build-engine {shlex.quote(graph)} --int8 --backend onnxruntime"
    return f"Build one placed for ONNX Runtime: `{command}`."


def _is_master(row: Row) -> bool:
    return row.layers is not None and row.layers.precision == "fp32"


def _no_kernels(case: Case) -> Reason | None:
    """Half types on a CPU: ONNX Runtime has no FP16 kernels for x86, and OpenVINO is opened with FP32 arithmetic."""
    if case.precision not in {"fp16", "bf16"} or not case.on_cpu:
        return None
    name = case.precision.upper()
    machine = case.measured.comparison.machines[case.row.machine]
    versions = dict(case.row.opened.info.versions) if case.row.opened else {}
    facts = {"backend": case.backend, "versions": versions, "architecture": machine.architecture}
    # Seen in the graph that ONNX Runtime 1.31 makes of it, on a CPU with AVX512-FP16 too: FP32 kernels and weights.
    if case.backend == "onnxruntime" and case.precision == "fp16" and machine.architecture in {"x86_64", "AMD64"}:
        text = "ONNX Runtime has no FP16 kernels for x86 CPUs: it computes the graph in FP32"
    elif case.backend == "openvino":
        text = f"OpenVINO runs with FP32 arithmetic here, and reads {name} as its storage only"
    else:
        return None
    use = f"Use it to build an engine for a GPU; on this CPU {case.wider.name} does the same work."
    return Reason("no-kernels", text, facts, use)


def _no_integer_dot(case: Case) -> Reason | None:
    machine = case.measured.comparison.machines[case.row.machine]
    known = case.on_cpu and machine.architecture in {"x86_64", "AMD64"} and machine.instructions
    if case.precision != "int8" or not known or set(INTEGER_DOT) & set(machine.instructions):
        return None
    return Reason(
        "no-integer-dot",
        "this CPU has no instruction that multiplies and adds 8-bit integers (AVX-512 VNNI, AVX-VNNI or AMX)",
        {"instructions": list(machine.instructions)},
    )


def _overhead(case: Case) -> Reason | None:
    """Calls and copies that take longer than the engine itself: narrower layers can't shorten them."""
    for batch in sorted(case.ratios):
        timing = case.row.speeds[batch].timing
        stages = timing.stages
        if stages is None or stages.device > timing.p50 / 2:
            continue
        copies = stages.copy_in + stages.copy_out
        rest = timing.p50 - stages.device
        most = f"copies {milliseconds(copies)} ms of it" if copies > rest / 2 else "most of it calls, not copies"
        text = (
            f"at batch {batch} the device computes {milliseconds(stages.device)} of {milliseconds(timing.p50)} ms "
            f"and the other {milliseconds(rest)} ms ({most}) are the same in any precision"
        )
        wide = case.wider.speeds[batch].timing.stages if batch in case.wider.speeds else None
        if wide is not None:
            text += f"; {case.wider.name} computes for {milliseconds(wide.device)} ms"
        facts = {
            "batch": batch,
            "device_seconds": stages.device,
            "copy_seconds": copies,
            "end_to_end_seconds": timing.p50,
            "device_seconds_wider": wide.device if wide else None,
        }
        return Reason("overhead", text, facts, _smaller_copies(case, copies > rest / 2, batch))
    return None


def _smaller_copies(case: Case, copies: bool, batch: int) -> str:
    first = case.row.opened.inputs[0].dtype if case.row.opened and case.row.opened.inputs else ""
    if copies and first in {"float32", "float16"}:
        share = {"float32": "a quarter", "float16": "half"}[first]
        return f"A graph exported with --uint8-input takes {share} of the bytes in."
    return "Larger batches share the calls." if batch == 1 else ""


_FINDERS: tuple[Callable[[Case], Reason | None], ...] = (
    _fell_back,
    _float_layers,
    _not_fused,
    _no_kernels,
    _no_integer_dot,
    _overhead,
)
