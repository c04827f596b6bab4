"""The command that builds an engine again, for its passport."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from engines.builders.options import BuildOptions


def build_command(
    graph: Path,
    precision: str,
    backend: str,
    options: BuildOptions,
    *,
    output: str | Path | None = None,
    table: str | Path | None = None,
    keep: Sequence[str] = (),
) -> str:
    """One line for a shell; a calibration table beside the graph needs no mention."""
    words = ["toolkit", "build-engine", str(graph), f"--{precision}", "--backend", backend]
    if table is not None:
        words += ["--table", str(table)]
    for name in keep:
        words += ["--keep", name]
    for profile in options.profiles:
        words += ["--batch", str(profile)]
    for capability in options.compute_capabilities:
        words += ["--compute-capability", capability]
    if options.workspace:
        words += ["--workspace", f"{options.workspace >> 20}MiB"]
    if options.timing_cache:
        words += ["--timing-cache", str(options.timing_cache)]
    if options.optimization_level is not None:
        words += ["--optimization-level", str(options.optimization_level)]
    if options.hardware_compatibility is not None:
        words += ["--hardware-compatibility", options.hardware_compatibility.replace("_", "-")]
    words += [
        flag
        for flag, is_set in (
            ("--tf32", options.tf32),
            ("--version-compatible", options.version_compatible),
            ("--weights-stripped", options.weights_stripped),
            ("--allow-partial", options.allow_partial),
        )
        if is_set
    ]
    if output is not None:
        words += ["--output", str(output)]
    return shlex.join(words)
