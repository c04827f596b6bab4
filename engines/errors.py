"""The one error tree of the toolkit.

::

    ToolkitError                    a cause, a remedy, an exit code
    ├── InputError            (2)   what was given can't be used: file, data, option
    │   ├── CheckpointError         a .pt that can't be loaded or recognised
    │   ├── GraphError              an .onnx that is damaged, invalid or unsupported
    │   ├── DataError               images, labels, folders
    │   ├── TableError              a calibration table that is damaged or stale
    │   └── EngineFormatError       a plan or passport that is not one, or is damaged
    ├── UnsupportedError      (2)   this machine, library or target can't do what was asked
    │   ├── MissingLibraryError     a package is not installed; the remedy is the pip line
    │   └── EngineMismatchError     a good engine, but not for this machine or library
    ├── BuildError            (2)   a builder or exporter failed on a valid request
    │   └── NodeError               a library can't do one node of the graph
    ├── RunError              (2)   a session failed while it ran
    ├── UnansweredError       (2)   a request that nothing is wrong with goes without an answer
    │   ├── Overloaded              too many requests are waiting already
    │   └── DeadlineExceeded        its time was up
    └── CheckFailedError      (1)   everything worked and the answer is no
        ├── VerificationError       the graph differs from PyTorch by more than the noise
        ├── AuditError              the engine's layers aren't of the precision asked for
        └── BudgetError             no choice of layers holds the accuracy that was asked for

Every message is one line of cause; every remedy is one line that says what to do.
"""


class ToolkitError(Exception):
    """Base of every error that the toolkit raises on purpose.

    Args:
        cause: one line: what is wrong, naming the file, tensor or option.
        remedy: one line: what the user can do about it.
    """

    exit_code = 2

    def __init__(self, cause: str, remedy: str = "") -> None:
        super().__init__(cause)
        self.cause = " ".join(cause.split())
        self.remedy = " ".join(remedy.split())

    def __str__(self) -> str:
        return f"{self.cause} ({self.remedy})" if self.remedy else self.cause

    def __reduce__(self) -> tuple[type["ToolkitError"], tuple[str, str]]:
        return type(self), (self.cause, self.remedy)


class InputError(ToolkitError):
    """What was given can't be used."""


class CheckpointError(InputError):
    """A checkpoint that can't be loaded or whose architecture isn't recognised."""


class GraphError(InputError):
    """An ONNX file that is damaged, invalid or outside what is supported."""


class DataError(InputError):
    """Images, labels or data folders that can't be used."""


class TableError(InputError):
    """A calibration table that is damaged, or made from something else."""


class EngineFormatError(InputError):
    """An engine file or passport that is damaged or isn't one at all."""


class UnsupportedError(ToolkitError):
    """This machine, library or target can't do what was asked."""


class MissingLibraryError(UnsupportedError):
    """A package is missing.

    Args:
        feature: what needs it, as the start of a sentence ("Exporting to ONNX").
        package: the import name.
        extra: the extra of ``onnx-tensorrt-toolkit`` that brings it.
    """

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs the package '{package}', which is not installed",
            f"pip install 'onnx-tensorrt-toolkit[{extra}]'",
        )
        self.feature, self.package, self.extra = feature, package, extra

    def __reduce__(self) -> tuple[type["ToolkitError"], tuple[str, str]]:
        return _missing, (self.feature, self.package, self.extra)  # type: ignore[return-value]


def _missing(feature: str, package: str, extra: str) -> MissingLibraryError:
    return MissingLibraryError(feature, package, extra)


class EngineMismatchError(UnsupportedError):
    """A good engine that this machine or the installed library can't run."""


class BuildError(ToolkitError):
    """A builder or exporter failed on a request that looked valid.

    Attributes:
        reason: what the library said, in one line; empty where it said nothing.
        log: the library's whole log, where there is one.
    """

    reason: str = ""
    log: str = ""


class NodeError(BuildError):
    """A library can't do one node of the graph; made by :meth:`at`.

    Attributes:
        node: the node's name; "number 7" where it has none.
        operator: its ONNX operator.
        module: the PyTorch module that it comes from; empty where that isn't known.
    """

    node: str = ""
    operator: str = ""
    module: str = ""

    @classmethod
    def at(
        cls, node: str, operator: str, *, graph: str, reason: str, module: str = "", remedy: str = ""
    ) -> "NodeError":
        """An error about a node of the graph file ``graph``; ``reason`` is what the library says."""
        of = f"{operator}, PyTorch module {module}" if module else operator
        name = node if node.startswith("number ") else f"'{node}'"
        error = cls(f"node {name} ({of}) of '{graph}' can't be built: {reason}", remedy)
        error.node, error.operator, error.module, error.reason = node, operator, module, reason
        return error


class RunError(ToolkitError):
    """A session failed while it ran."""


class UnansweredError(ToolkitError):
    """A request that nothing is wrong with goes without an answer; the same one may well succeed later."""


class Overloaded(UnansweredError):  # noqa: N818 - what has happened, not what is wrong
    """Too many requests are waiting already."""


class DeadlineExceeded(UnansweredError):  # noqa: N818
    """The time that a request was given was up before it was answered."""


class CheckFailedError(ToolkitError):
    """Everything worked and the answer is no."""

    exit_code = 1


class VerificationError(CheckFailedError):
    """The graph differs from PyTorch by more than the measured noise."""


class AuditError(CheckFailedError):
    """The engine's layers aren't of the precision that was asked for."""


class BudgetError(CheckFailedError):
    """No choice of layers holds the accuracy that was asked for."""
