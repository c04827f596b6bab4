"""Where the libraries differ: TensorRT 10 and 11 on one side, TensorRT for RTX on the other.

Functions with ``rtx`` in their name are for TensorRT for RTX only, those with ``datacentre`` for TensorRT only;
the test of the libraries' API names relies on that.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from engines.builders.options import BuildOptions, check_options
from engines.errors import InputError, UnsupportedError
from engines.files import write_atomically
from engines.header import PlanKind
from engines.optional import require

OLDEST_TENSORRT = (10, 13)


@dataclass(frozen=True)
class Flavour:
    """One of the two kinds of library.

    Attributes:
        backend: its key in the table of backends.
        title: its name for people.
        module: its import name.
    """

    backend: PlanKind
    title: str
    module: str


FLAVOURS: dict[str, Flavour] = {
    "tensorrt": Flavour("tensorrt", "TensorRT", "tensorrt"),
    "tensorrt-rtx": Flavour("tensorrt-rtx", "TensorRT for RTX", "tensorrt_rtx"),
}


def flavour_of(backend: str) -> Flavour:
    """The flavour of a backend.

    Raises:
        UnsupportedError: the backend builds no plans.
    """
    if backend not in FLAVOURS:
        raise UnsupportedError(f"backend '{backend}' builds no TensorRT plans", f"backends: {', '.join(FLAVOURS)}")
    return FLAVOURS[backend]


def builder_library(backend: str, options: BuildOptions) -> ModuleType:
    """Import a backend's library, and refuse what it can't do before any work is done.

    Raises:
        MissingLibraryError: it isn't installed.
        UnsupportedError: it is too old, doesn't load, or can't honour an option.
    """
    flavour = flavour_of(backend)
    check_options(options, backend)
    trt = require(flavour.module, f"Building {flavour.title} engines", backend)
    if backend == "tensorrt-rtx":
        capabilities_rtx(trt, options.compute_capabilities)
    elif tuple(int(part) for part in str(trt.__version__).split(".")[:2] if part.isdigit()) < OLDEST_TENSORRT:
        raise UnsupportedError(
            f"TensorRT {trt.__version__} is installed; 10.13 is the oldest supported", "pip install 'tensorrt>=10.13'"
        )
    return trt


def capabilities_rtx(trt: ModuleType, asked: tuple[str, ...]) -> list[Any]:
    """The library's names for compute capabilities ("8.9" is ``ComputeCapability.SM89``).

    Raises:
        UnsupportedError: the library doesn't build for one of them; it names those that it does.
    """
    members = {name: value for name, value in vars(trt.ComputeCapability).items() if name.startswith("SM")}
    supported = {f"{name[2:-1]}.{name[-1]}": value for name, value in members.items()}
    if unknown := [capability for capability in asked if capability not in supported]:
        names = ", ".join(sorted(supported, key=lambda name: tuple(map(int, name.split(".")))))
        raise UnsupportedError(
            f"TensorRT for RTX {trt.__version__} can't build for compute capability {', '.join(unknown)};"
            f" supported are {names}",
            "choose among those; for data-centre GPUs build with --backend tensorrt on the target machine",
        )
    return [supported[capability] for capability in asked]


def configure(trt: ModuleType, config: Any, options: BuildOptions, backend: str) -> None:
    """Set a builder's options: those that both flavours share, then their own.

    Raises:
        InputError: the timing cache can't be used.
    """
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the audit reads layers by their ONNX names
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if backend == "tensorrt-rtx":
        _configure_rtx(trt, config, options)
    else:
        _configure_datacentre(trt, config, options)


def _configure_rtx(trt: ModuleType, config: Any, options: BuildOptions) -> None:
    capabilities = capabilities_rtx(trt, options.compute_capabilities)
    if capabilities:
        config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            if not config.set_compute_capability(capability, index):
                raise UnsupportedError(
                    f"TensorRT for RTX refuses compute capability {options.compute_capabilities[index]}",
                    "leave it out of --compute-capability",
                )


def _configure_datacentre(trt: ModuleType, config: Any, options: BuildOptions) -> None:
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.weights_stripped:
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        # The same graph fills the weights in again, so kernels may rely on their values: no speed is lost.
        config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)
    if options.hardware_compatibility == "ampere_plus":
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    elif options.hardware_compatibility == "same_compute_capability":
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
    if options.timing_cache is not None:
        path = options.timing_cache
        try:
            known = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise InputError(
                f"can't read the timing cache '{path}': {error.strerror}", "give another file, or remove it"
            ) from error
        cache = config.create_timing_cache(known)
        if cache is None or not config.set_timing_cache(cache, False):
            raise InputError(
                f"the timing cache '{path}' is damaged, or of another GPU or TensorRT version",
                "remove it, or give another",
            )


def save_timing_cache_datacentre(config: Any, options: BuildOptions) -> None:
    """Write the timings that the build added, where a timing cache was asked for."""
    if options.timing_cache is not None:
        cache = config.get_timing_cache()
        write_atomically(options.timing_cache, memoryview(cache.serialize()).cast("B"))
