"""Whether an engine can run here, judged from its header and passport before any library sees it.

TensorRT plans run on the version, system, architecture and GPU kind that they were built for, unless they
were built version or hardware compatible. TensorRT for RTX plans run on the release that built them, on
any system, and on the compute capabilities that they list.
"""

import shlex
from pathlib import Path
from typing import Any

from engines.errors import EngineFormatError, EngineMismatchError, InputError, MissingLibraryError, ToolkitError
from engines.files import digest_file, unreadable
from engines.header import (
    AGAIN,
    OLDEST_FP8,
    RTX_CAPABILITIES,
    PlanHeader,
    PlanKind,
    capability_number,
    read_header,
    runs_fp8,
)
from engines.installed import library_version, this_platform
from engines.passport import Passport, find_passport


def reasons_not_to_run(
    engine_path: Path,
    *,
    compute_capability: str | None = None,
    installed: str | None = None,
    platform: str | None = None,
    digest: bool = True,
) -> list[ToolkitError]:
    """Why an engine can't run here, read from its header and passport; an empty list when nothing speaks against it.

    Args:
        engine_path: a plan, or the graph that ONNX Runtime runs.
        compute_capability: "8.9": this GPU's; None leaves it unjudged.
        installed: version of the backend's library here; None looks it up.
        platform: "linux-x86_64"; None takes this machine's.
        digest: also read the whole file and compare it with the passport.

    Returns:
        Errors that name the cause and, as the remedy, the command that builds a fitting engine. The worst is first.
    """
    path = Path(engine_path)
    try:
        header = None if path.suffix == ".onnx" else whole_plan(path)
        passport = find_passport(path)
        reasons: list[ToolkitError] = _damage(path, header, passport, digest)
    except InputError as error:
        return [error]
    if header is None:
        return reasons
    reasons += _wrong_library(path, header, passport, installed or library_version(header.kind))
    if passport and header.kind == "tensorrt" and passport.platform not in {"", platform or this_platform()}:
        reasons.append(
            EngineMismatchError(
                f"'{path.name}' was built on {passport.platform}, and this is {platform or this_platform()}",
                f"build it on this machine: {_rebuild(header.kind, passport)}",
            )
        )
    if compute_capability is not None:
        reasons += _wrong_gpu(path, header, passport, compute_capability)
    return reasons


def require_runnable(engine_path: Path, **here: Any) -> None:
    """Raise the first of :func:`reasons_not_to_run` (same arguments), if there is one.

    Raises:
        EngineFormatError: the engine or its passport is damaged.
        EngineMismatchError: it was built for another library, platform or GPU.
        MissingLibraryError: the library that runs it isn't installed.
    """
    for reason in reasons_not_to_run(engine_path, **here):
        raise reason


def whole_plan(path: Path) -> PlanHeader:
    """:func:`engines.header.read_header`, whose remedy ends with the command of the passport where one lies beside.

    Raises:
        InputError: the file doesn't exist or can't be read.
        EngineFormatError: it is a folder, empty, truncated, or not a plan.
    """
    try:
        return read_header(path)
    except EngineFormatError as error:
        try:
            passport = find_passport(path)
        except InputError:
            passport = None
        if passport is None:
            raise
        remedy = AGAIN if error.remedy == AGAIN else f"{error.remedy}; or build it again"
        raise EngineFormatError(error.cause, f"{remedy}: {passport.command}") from error


def _damage(path: Path, header: PlanHeader | None, passport: Passport | None, digest: bool) -> list[ToolkitError]:
    if passport is None:
        return []
    wrong = None
    try:
        size = path.stat().st_size
    except OSError as error:
        raise unreadable(path, error) from error
    if header is not None and passport.backend != header.kind:
        wrong = f"is a plan for {header.kind}, and its passport is for {passport.backend}"
    elif size != passport.size:
        wrong = f"has {size} bytes, and its passport says {passport.size}"
    elif digest and digest_file(path) != passport.digest:
        wrong = "isn't the file that its passport describes: the digests differ"
    if wrong is None:
        return []
    rebuild = "rebuild it" if passport.engine == path.name else f"rebuild '{passport.engine}', whose passport it is"
    remedy = f"copy engine and passport again, or {rebuild}: {passport.command}"
    return [EngineFormatError(f"'{path.name}' {wrong}", remedy)]


def _wrong_library(
    path: Path, header: PlanHeader, passport: Passport | None, installed: str | None
) -> list[ToolkitError]:
    if installed is None:
        module = "tensorrt" if header.kind == "tensorrt" else "tensorrt_rtx"
        return [MissingLibraryError(f"Running '{path.name}'", module, header.kind)]
    here = tuple(int(part) for part in installed.split(".") if part.isdigit())
    if here[:3] == header.version[:3]:
        return []
    # A version-compatible plan runs on the same major version, from the builder's release on. Only a
    # passport tells; without one the library has to judge.
    may_be_compatible = passport is None or bool(passport.options.get("version_compatible"))
    if header.kind == "tensorrt" and may_be_compatible and here[0] == header.version[0] and here >= header.version:
        return []
    name = header.library.removesuffix(f" {header.version_text}")
    return [
        EngineMismatchError(
            f"'{path.name}' was built by {header.library}, and {name} {installed} is installed",
            f"rebuild it: {_rebuild(header.kind, passport)}",
        )
    ]


def _wrong_gpu(path: Path, header: PlanHeader, passport: Passport | None, here: str) -> list[ToolkitError]:
    if passport and passport.precision == "fp8" and not runs_fp8(here):  # whatever header and passport list
        cause = f"'{path.name}' is FP8, which needs compute capability {OLDEST_FP8} or newer; this GPU has {here}"
        return [EngineMismatchError(cause, f"build it with --int8 or --fp16 in place of --fp8: {passport.command}")]
    claimed = header.compute_capabilities
    built_for = passport.compute_capabilities if passport and passport.compute_capabilities else claimed or ()
    if not built_for or (here in built_for and (claimed is None or here in claimed)):
        return []
    level = passport.options.get("hardware_compatibility") if passport else None
    if header.kind == "tensorrt" and level == "ampere_plus" and capability_number(here) >= capability_number("8.0"):
        return []
    cause = f"'{path.name}' was built for compute capability {', '.join(built_for)}, and this GPU has {here}"
    if header.kind == "tensorrt":
        return [EngineMismatchError(cause, f"rebuild it on this machine: {_rebuild(header.kind, passport)}")]
    if here not in RTX_CAPABILITIES:
        remedy = "TensorRT for RTX has no support for this GPU; build with --backend tensorrt on this machine"
        return [EngineMismatchError(cause, remedy)]
    return [EngineMismatchError(cause, f"rebuild it: {_rebuild(header.kind, passport, here)}")]


def _rebuild(kind: PlanKind, passport: Passport | None, capability: str | None = None) -> str:
    """The command that builds the engine again, for another compute capability where one is given."""
    command = passport.command if passport else f"toolkit build-engine GRAPH.onnx --backend {kind}"
    if capability is None or kind != "tensorrt-rtx":
        return command
    try:
        words = iter(shlex.split(command))
    except ValueError:  # somebody wrote something into the passport that no shell reads
        return command
    kept: list[str] = []
    for word in words:
        if word == "--compute-capability":
            next(words, None)
        elif not word.startswith("--compute-capability="):
            kept.append(word)
    return f"{shlex.join(kept)} --compute-capability {capability}"
