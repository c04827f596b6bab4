import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from engines.errors import EngineMismatchError, GraphError, RunError
from engines.sessions import open_session
from tests.tiny import METADATA, PREPROCESS, tiny_graph, tiny_images
from tests.toolkit.openers import HERE
from toolkit.benchmarking.messages import Contestant
from toolkit.benchmarking.pausing import CAN_PAUSE
from toolkit.benchmarking.process import WorkerProcess
from toolkit.benchmarking.rounds import Pace, take_turns
from toolkit.benchmarking.worker import Worker

ROOT = Path(__file__).resolve().parents[2]


def contestant(path="x", name="x", opener="fake", **options) -> Contestant:
    return Contestant(str(path), name, opener=f"{HERE}:{opener}", options=options)


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("process") / "tiny.onnx"
    onnx.save(tiny_graph(), path)
    return path


def alive(pid: int) -> bool:
    """Whether it runs; one that has ended and waits to be collected by its parent doesn't."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return not Path("/proc/self").exists()
    return state != "Z"


def cpu_seconds(pid: int) -> float:
    """What all its threads have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_until_gone(pid: int, seconds: float = 20) -> None:
    limit = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < limit:
        time.sleep(0.02)
    assert not alive(pid)


def test_a_process_answers_as_the_session_itself_does(graph):
    images = tiny_images(7)
    with open_session(graph, device="cpu") as session:
        expected = session.run({"input": PREPROCESS.normalise(images)})["logits"]
    with WorkerProcess(contestant(graph, opener="noisy")) as worker:
        opened = worker.open()
        logits = worker.logits(images, PREPROCESS)
        block = worker.block(3, 0.05)
        assert worker.warm(3, 0.01) >= 2
        assert worker.memory() > 20e6
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    assert opened.metadata == METADATA
    assert (opened.info.backend, opened.info.device) == ("onnxruntime", "cpu")
    assert opened.info.provider == "CPUExecutionProvider"
    assert opened.open_seconds > 0
    assert opened.first_seconds > 0
    assert min(block.seconds) > 0
    assert block.stages == ()


def test_a_long_run_counts_even_when_it_is_the_only_one_of_its_turn():
    with WorkerProcess(contestant(delay=0.06)) as worker:
        worker.open()
        block = worker.block(1, 0.01)
    assert len(block.seconds) == 1
    assert block.seconds[0] >= 0.06


def test_a_run_that_is_longer_than_a_turn_only_for_being_the_first_does_not_count():
    worker = Worker()
    worker.open(contestant(opener="cold"))
    assert min(worker.block(1, 0.025).seconds) < 0.04
    worker.close()


def test_a_turn_that_takes_longer_than_patience_lasts_is_no_hanging_process():
    with WorkerProcess(contestant(delay=0.3)) as worker:
        worker.open()
        worker.patience = 0.01
        assert worker.block(1, 1.5).seconds


def test_a_turn_of_short_runs_lasts_as_long_as_asked():
    with WorkerProcess(contestant(delay=0.005)) as worker:
        worker.open()
        block = worker.block(1, 0.06)
    assert sum(block.seconds) <= 0.06 + max(block.seconds)
    assert 1 <= len(block.seconds) <= 12


@pytest.mark.skipif(not CAN_PAUSE, reason="processes are stopped on Linux only")
def test_nothing_of_a_process_runs_while_nobody_asks_it():
    """Else threads that it left spinning would take a core from the rival whose turn is next."""
    with WorkerProcess(contestant(opener="spinning")) as worker:
        worker.open()
        worker.block(1, 0.001)
        time.sleep(0.03)  # a tick of the system's accounting
        before = cpu_seconds(worker.pid)
        time.sleep(0.12)
        assert cpu_seconds(worker.pid) == before
        worker.block(1, 0.001)
        assert cpu_seconds(worker.pid) > before


def test_where_processes_cannot_be_stopped_a_turn_ends_when_its_threads_sleep(monkeypatch):
    monkeypatch.setattr("toolkit.benchmarking.worker.CAN_PAUSE", False)
    worker = Worker()
    worker.open(contestant(opener="spinning"))
    start = time.monotonic()
    worker.block(1, 0.001)
    assert time.monotonic() - start >= 0.2
    worker.close()


def test_what_is_timed_are_the_images_that_it_was_given(graph):
    worker = Worker()
    worker.open(contestant(graph, opener="onnx"))
    images = tiny_images(3)
    worker.feed(images, PREPROCESS)
    [values] = worker._feeds_of(7).values()
    np.testing.assert_array_equal(values, PREPROCESS.normalise(images)[[0, 1, 2, 0, 1, 2, 0]])
    worker.close()


def test_a_process_on_the_cpu_holds_no_device_memory():
    with WorkerProcess(contestant()) as worker:
        worker.open()
        assert worker.device_memory() is None


def test_the_toolkits_own_errors_arrive_with_cause_remedy_and_type():
    with (
        WorkerProcess(contestant("m.engine", opener="refusing")) as worker,
        pytest.raises(EngineMismatchError) as caught,
    ):
        worker.open()
    assert caught.value.cause == "'m.engine' is for another GPU"
    assert caught.value.remedy == "toolkit build-engine model.onnx --fp16"


def test_a_damaged_graph_is_answered_by_its_own_error(tmp_path):
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"not a graph")
    with WorkerProcess(contestant(path, opener="onnx")) as worker, pytest.raises(GraphError):
        worker.open()


def test_an_unforeseen_error_is_one_line_and_keeps_its_traceback_for_debugging():
    with WorkerProcess(contestant(opener="broken")) as worker, pytest.raises(RunError) as caught:
        worker.open()
    assert caught.value.cause == "ZeroDivisionError: a fault that nobody foresaw"
    assert "in broken" in "".join(caught.value.__notes__)


@pytest.mark.parametrize(
    ("way", "words"), [("kill", "killed by SIGKILL"), ("exit", "ended with status 3: the library's last words")]
)
def test_a_process_that_dies_says_how(way, words):
    with WorkerProcess(contestant(opener="doomed", name="bad.engine", way=way)) as worker:
        worker.open()
        with pytest.raises(RunError, match=words) as caught:
            worker.block(1, 0.1)
        assert "bad.engine" in caught.value.cause
        with pytest.raises(RunError, match=words):
            worker.memory()


def test_a_process_that_hangs_is_stopped():
    with WorkerProcess(contestant(opener="doomed", way="hang")) as worker:
        worker.open()
        worker.patience = 1
        with pytest.raises(RunError, match="no answer for 1 s"):
            worker.block(1, 0.1)
        assert worker._process.wait(timeout=20) == -signal.SIGKILL


def test_closing_ends_the_process_and_can_be_done_twice():
    worker = WorkerProcess(contestant())
    worker.open()
    worker.close()
    worker.close()
    assert not alive(worker.pid)


def test_closing_ends_what_the_process_has_started_too(tmp_path):
    worker = WorkerProcess(contestant(tmp_path / "pid", opener="forking"))
    worker.open()
    child = int((tmp_path / "pid").read_text())
    assert alive(child)
    worker.close()
    wait_until_gone(child)


def test_a_process_that_dies_while_what_it_started_lives_is_not_waited_for(tmp_path):
    worker = WorkerProcess(contestant(tmp_path / "pid", opener="forking"))
    worker.open()
    child = int((tmp_path / "pid").read_text())
    os.kill(worker.pid, signal.SIGKILL)
    worker.patience = 30
    with pytest.raises(RunError, match="killed by SIGKILL"):
        worker.block(1, 0.01)
    worker.close()
    wait_until_gone(child)


def test_closing_ends_a_process_that_was_never_asked_anything():
    worker = WorkerProcess(contestant())
    worker.close()
    assert not alive(worker.pid)


def test_a_process_ends_when_its_owner_is_killed():
    script = (
        f"import sys, time; sys.path.insert(0, {str(ROOT)!r})\n"
        "from tests.toolkit.test_bench_process import contestant\n"
        "from toolkit.benchmarking.process import WorkerProcess\n"
        "worker = WorkerProcess(contestant()); worker.open()\n"
        "print(worker.pid, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as owner:
        pid = int(owner.stdout.readline())
        assert alive(pid)
        owner.kill()
    wait_until_gone(pid)


def test_a_plain_script_without_a_main_guard_can_start_one(tmp_path):
    """multiprocessing would import the script again in the child, and start another from there."""
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from toolkit.benchmarking.messages import Contestant\n"
        "from toolkit.benchmarking.process import WorkerProcess\n"
        f"with WorkerProcess(Contestant('x', 'x', opener='{HERE}:fake')) as worker:\n"
        "    print(worker.open().info.backend)\n"
    )
    answer = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=60)
    assert answer.stdout == "fake\n", answer.stderr


def test_turns_measure_each_rival_the_same_number_of_times_and_drop_what_dies():
    failures = {}
    names = {"quick": {"delay": 0.001}, "slow": {"delay": 0.004}}
    workers = {name: WorkerProcess(contestant(name=name, **options)) for name, options in names.items()}
    workers["dies"] = WorkerProcess(contestant(name="dies", opener="doomed", way="kill", at=5))
    turns = []
    try:
        for worker in workers.values():
            worker.open()
        pace = Pace(seconds=0.12, rounds=6, warm_seconds=0.0)
        timings = take_turns(workers, 2, pace, failures.__setitem__, lambda: turns.append(1))
    finally:
        for worker in workers.values():
            worker.close()
    assert set(timings) == {"quick", "slow"}
    assert "SIGKILL" in failures["dies"].cause
    assert all(len(timing.blocks) == 6 and all(timing.blocks) for timing in timings.values())
    assert timings["quick"].minimum >= 0.001
    assert timings["slow"].minimum >= 0.004
    assert len(turns) == 18
