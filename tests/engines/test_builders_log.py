"""What a user is told of a library's log and of its progress."""

import re
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from engines.builders.interruptible import run_interruptibly
from engines.builders.log import Log, library_logger, listening, log_path, plain, write_log
from engines.builders.monitor import LONGEST, Phases
from engines.errors import InputError

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


def test_the_whole_text_has_every_message_with_its_time() -> None:
    log = Log()
    log.add("INFO", "first")
    log.add("VERBOSE", "Layers:\nName: a")
    first, second, third = log.text().splitlines()
    assert re.fullmatch(r" +0\.\d{3} INFO: first", first)
    assert second.endswith(" VERBOSE: Layers:")
    assert third == "Name: a"


def test_a_very_long_log_keeps_its_first_and_last_messages_in_bounded_memory() -> None:
    log = Log()
    for index in range(40):
        log.add("VERBOSE", f"message {index} " + "x" * (1 << 19))
    log.add("VERBOSE", "y" * (20 << 20))  # one message, longer than all that is kept
    text = log.text()
    assert "message 0 " in text
    assert "messages left out ..." in text
    assert text.rstrip().endswith("y…")
    assert "message 20 " not in text
    assert len(text) < 13 << 20


def test_a_log_lies_beside_its_engine_and_that_of_a_failure_goes_when_a_build_succeeds(tmp_path: Path) -> None:
    engine = tmp_path / "model.fp16.engine"
    failed = write_log(engine, "what went wrong", failed=True)
    assert failed == tmp_path / "model.fp16.engine.failed.log"
    assert failed.read_text() == "what went wrong"
    assert write_log(engine, "all went well") == log_path(engine) == tmp_path / "model.fp16.engine.log"
    assert [path.name for path in tmp_path.iterdir()] == ["model.fp16.engine.log"]


def test_a_log_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.engine\.log"):
        write_log(tmp_path / "no folder" / "model.engine", "")


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
        self.phases: list[object] = []

    def begin(self, task: str, total: int | None = None, unit: str = "") -> None: ...

    def advance(self, steps: int = 1, **facts: object) -> None:
        self.steps.append(steps)
        self.phases.append(facts["phase"])

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
    assert phases.complete().keys() == {"preparing the network", "optimise"}
    assert sum(heard.steps) == 100
    assert min(heard.steps) > 0


def test_a_step_says_go_on_until_it_is_cancelled() -> None:
    cancel = threading.Event()
    phases = Phases(Heard(), cancel)
    phases.start("build", None, 3)
    assert phases.step("build", 0)
    cancel.set()
    assert not phases.step("build", 1)


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_phase_that_takes_the_time_is_most_of_the_bar_and_profiles_share_it() -> None:
    clock, heard = Clock(), Heard()
    phases = Phases(heard, threading.Event(), LONGEST["tensorrt"], clock)
    phases.profiles = 2
    phases.enter("reading the graph")
    clock.now += 1
    phases.start("Building engine", None, 6)
    for index in range(4):
        clock.now += 1
        phases.step("Building engine", index)
    assert phases.fraction() < 0.1  # four of six steps, and none that takes long
    phases.start("Building engine from subgraph", "Building engine", 1)
    phases.start("Computing profile costs", "Building engine from subgraph", 10)
    before = phases.fraction()
    for profile in (1, 2):
        phases.start("Timing tactics", "Computing profile costs", 3)
        phases.start("Timing graph nodes", "Timing tactics", 4)
        for index in range(4):
            clock.now += 100
            phases.step("Timing graph nodes", index)
        assert heard.phases[-1] == f"timing kernels, profile {profile} of 2"
        phases.finish("Timing graph nodes")
        phases.finish("Timing tactics")
        assert phases.fraction() - before > 0.35 * profile
    phases.finish("Computing profile costs")
    phases.finish("Building engine from subgraph")
    clock.now += 5
    took = phases.complete()
    assert took == {
        "reading the graph": 1,
        "preparing the network": 4,
        "compiling": 0,
        "choosing kernels": 0,
        "timing kernels": 800,
        "writing the plan": 5,
    }


def test_a_listener_hears_that_a_long_phase_goes_on() -> None:
    clock, heard = Clock(), Heard()
    phases = Phases(heard, threading.Event(), None, clock)
    phases.enter("reading the graph")
    phases.beat()
    assert len(heard.steps) == 1
    clock.now += 3
    phases.beat()
    assert (heard.steps, heard.phases) == ([0, 0], ["reading the graph"] * 2)


def test_the_caller_is_called_while_it_waits() -> None:
    called = threading.Event()
    assert run_interruptibly(lambda: called.wait(5), threading.Event(), called.set) is True


def test_an_unknown_phase_is_told_in_the_librarys_words() -> None:
    heard = Heard()
    phases = Phases(heard, threading.Event())
    phases.start("Building engine", None, 1)
    phases.start("Polishing Tensors", "Building engine", 2)
    phases.step("Polishing Tensors", 0)
    assert heard.phases == ["polishing tensors"]
