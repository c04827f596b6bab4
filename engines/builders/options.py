"""What can be asked of a builder.

An option that a library ignores, or fails on later with a riddle, is refused here by name; who honours what is in
:mod:`engines.builders.capabilities`.
"""

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from engines.builders.capabilities import CAPABILITIES, refusal
from engines.builders.profiles import Profile
from engines.errors import InputError, UnsupportedError

HardwareCompatibility = Literal["ampere_plus", "same_compute_capability"]


@dataclass(frozen=True)
class BuildOptions:
    """What is asked of a builder beyond the graph, whose types are the precision.

    Attributes:
        profiles: sizes of the dynamic dimensions; none means batch 1:8:32 where the batch is dynamic.
        workspace: bytes of device memory that a layer may use while it runs; None leaves it to the library.
        tf32: whether layers typed FP32 may multiply in TF32 (10 bits of mantissa) on GPUs that can.
        timing_cache: file that keeps kernel timings between builds; read if it is there, then written.
        optimization_level: 0 to 5, how long the builder searches; None leaves it to the library.
        version_compatible: whether newer releases of the same major version can run the engine.
        hardware_compatibility: GPUs beside this one that can run the engine, None for none: "ampere_plus" or
            "same_compute_capability".
        weights_stripped: whether the plan leaves its weights out; the typed graph fills them in when it is loaded.
        compute_capabilities: ("8.9", "12.0"): what to build for; none means every one from 8.0.
        allow_partial: whether layers of another precision than asked for are told instead of refused.
    """

    profiles: tuple[Profile, ...] = ()
    workspace: int | None = None
    tf32: bool = False
    timing_cache: Path | None = None
    optimization_level: int | None = None
    version_compatible: bool = False
    hardware_compatibility: HardwareCompatibility | None = None
    weights_stripped: bool = False
    compute_capabilities: tuple[str, ...] = ()
    allow_partial: bool = False

    def __post_init__(self) -> None:
        """Reject values that no library takes."""
        if self.workspace is not None and self.workspace < 1 << 20:
            raise InputError(f"a workspace of {self.workspace} bytes is too small", "give at least 1 MiB")
        if self.optimization_level not in {None, 0, 1, 2, 3, 4, 5}:
            raise InputError(f"optimisation level {self.optimization_level} is not 0 to 5", "give 0 to 5")
        if self.hardware_compatibility not in {None, "ampere_plus", "same_compute_capability"}:
            raise InputError(
                f"hardware compatibility '{self.hardware_compatibility}' is unknown",
                "ampere_plus or same_compute_capability",
            )
        if len(set(self.compute_capabilities)) < len(self.compute_capabilities):
            raise InputError("a compute capability is given twice", "give each one once")
        for capability in self.compute_capabilities:
            if not re.fullmatch(r"\d{1,2}\.\d", capability, re.ASCII):
                raise InputError(f"'{capability}' is not a compute capability", "write it as 8.9 or 12.0")

    def to_json(self) -> dict[str, Any]:
        """The options that differ from their defaults, for a passport."""
        written: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if value != item.default:
                written[item.name] = _plain(value)
        return written


def check_options(options: BuildOptions, backend: str) -> None:
    """Refuse what ``backend``'s library wouldn't honour.

    Raises:
        UnsupportedError: an option is set that another library honours, or none of them; it says which.
    """
    for item in fields(options):
        if backend in CAPABILITIES[item.name].backends or getattr(options, item.name) == item.default:
            continue
        raise UnsupportedError(*refusal(item.name, backend))


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Profile | Path) else value
