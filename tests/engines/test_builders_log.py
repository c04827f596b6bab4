"""What a user is told of a library's log and of its progress."""

import threading
from types import SimpleNamespace

import pytest

from engines.builders.log import Log, library_logger, listening, plain
from engines.builders.monitor import Phases

TURING = (
    "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([pass.cpp:337: check_turing_op_compatibility] "
    "Cannot compile operation 'fc1' for Turing (SM75): FP32 GEMM is not supported. In compileGraph at "
    "/_src/optimizer/myelin/codeGenerator.cpp:2012)"
)
MIXED_TYPES = """Invalid Node - conv1
[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at /_src/x.cpp:250 (cudaError 35)
ITensor::getDimensions: Error Code 4: API Usage Error (conv1: `input` is Float, `kernel` is Half. In f at /_src/y:88)
"""


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (TURING, "Cannot compile operation 'fc1' for Turing (SM75): FP32 GEMM is not supported"),
        (MIXED_TYPES, "conv1: `input` is Float, `kernel` is Half"),
        (
            "Assertion failed: size() >= 2 && size() <= 5: The node requires 2-5 inputs.",
            "The node requires 2-5 inputs.",
        ),
        ('creator && "Plugin not found, is the name right?"', "Plugin not found, is the name right?"),
        ("word " * 200, "word " * 59 + "word…"),
        ("something the library never said before", "something the library never said before"),
        ("", ""),
    ],
)
def test_a_librarys_message_is_said_in_one_plain_line(message: str, said: str) -> None:
    assert plain(message) == said


def test_the_reason_is_the_first_error_that_is_no_noise() -> None:
    log = Log()
    assert log.reason() == ""
    log.add("ERROR", "Error Code 1: Cuda Runtime (cudaError 35: CUDA driver version is insufficient)")
    log.add("WARNING", "mind the gap")
    log.add("ERROR", "the real one")
    log.add("ERROR", "what followed from it")
    assert log.reason() == "the real one"
    assert log.tail()[-1] == "ERROR: what followed from it"


def test_the_log_keeps_its_errors_and_its_end_and_no_more() -> None:
    log = Log()
    log.add("ERROR", "at the very beginning")
    for index in range(5000):
        log.add("VERBOSE", f"line {index}")
    assert log.tail()[0] == "ERROR: at the very beginning"
    assert log.tail()[-1] == "VERBOSE: line 4999"
    assert len(log.tail()) < 50


def test_an_external_file_that_could_not_be_opened_is_told() -> None:
    log = Log()
    log.add("ERROR", "WeightsContext.cpp:203: Failed to open file: /models/a b.data")
    assert log.missing_file() == "/models/a b.data"
    assert Log().missing_file() is None


def test_everyone_who_listens_hears_the_one_logger_of_a_library() -> None:
    class ILogger:
        pass

    library = SimpleNamespace(__name__="pretend_trt", ILogger=ILogger)
    logger = library_logger(library)  # type: ignore[arg-type]
    assert library_logger(library) is logger  # type: ignore[arg-type]
    with listening(library) as outer, listening(library) as inner:  # type: ignore[arg-type]
        logger.log("Severity.INTERNAL_ERROR", "heard")
    logger.log("Severity.ERROR", "not heard")
    assert outer.tail() == inner.tail() == ("ERROR: heard", "ERROR: heard")


class Heard:
    def __init__(self) -> None:
        self.steps: list[int] = []

    def begin(self, task: str, total: int | None = None, unit: str = "") -> None: ...

    def advance(self, steps: int = 1, **facts: object) -> None:
        self.steps.append(steps)

    def end(self) -> None: ...


def test_nested_phases_become_one_growing_percentage() -> None:
    heard = Heard()
    phases = Phases(heard, threading.Event())
    phases.start("build", None, 4)
    phases.step("build", 0)
    assert phases.fraction() == pytest.approx(1 / 4)
    phases.start("optimise", "build", 2)
    phases.step("optimise", 0)
    assert phases.fraction() == pytest.approx(1 / 4 + 1 / 8)
    phases.step("optimise", 1)
    phases.finish("optimise")
    phases.step("build", 1)
    assert sum(heard.steps) == 50
    phases.step("build", 0)  # out of order: nothing goes backwards
    phases.step("unheard of", 7)
    assert sum(heard.steps) == 50
    phases.step("build", 3)
    phases.finish("build")
    phases.complete()
    assert sum(heard.steps) == 100
    assert min(heard.steps) > 0


def test_a_step_says_go_on_until_it_is_cancelled() -> None:
    cancel = threading.Event()
    phases = Phases(Heard(), cancel)
    phases.start("build", None, 3)
    assert phases.step("build", 0)
    cancel.set()
    assert not phases.step("build", 1)
