"""scripts/gpu-check as far as a machine without a GPU can tell: its record, its words, its exit codes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
import tensorrt_rtx

from benchmarks import gpu_check, gpu_process, gpu_rtx
from engines.header import parse_header
from engines.target import Gpu, Target
from tests.tiny import tiny_graph

ROOT = Path(__file__).resolve().parents[2]

JUNIT = """<testsuites><testsuite>
<testcase classname="tests.gpu.test_cuda" name="test_a"/>
<testcase classname="tests.gpu.test_cuda" name="test_b">
<failure message="assert 1 == 2&#10; more">x</failure></testcase>
<testcase classname="tests.gpu.test_cuda" name="test_c"><error message="setup broke">x%s</error></testcase>
<testcase classname="tests.gpu.test_cuda" name="test_g"><error message="setup broke">x</error></testcase>
<testcase classname="tests.gpu.test_cuda" name="test_d"><skipped message="no tensorrt">x</skipped></testcase>
<testcase classname="tests.gpu.test_cuda" name="test_e"><skipped message="no tensorrt">x</skipped></testcase>
<testcase classname="tests.gpu.test_rtx" name="test_f">
<properties><property name="rtx" value="runs"/></properties></testcase>
</testsuite></testsuites>""" % ("y" * 9999)


def test_pytests_report_is_counted_with_every_reason():
    assert gpu_check.parse_junit(JUNIT) == {
        "passed": 2,
        "failed": 3,
        "skipped": 2,
        "failures": [
            {"name": "test_cuda::test_b", "reason": "assert 1 == 2 more", "trace": "x"},
            {"name": "test_cuda::test_c", "reason": "setup broke", "trace": "y" * gpu_process.TRACE},
            {"name": "test_cuda::test_g", "reason": "setup broke"},
        ],
        "skips": {"no tensorrt": 2},
        "properties": {"rtx": "runs"},
    }


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("can't load '/srv/models/model.engine'", "can't load 'model.engine'"),
        ('File "/usr/lib/python3/x.py", line 7', 'File "x.py", line 7'),
        ("onnx-tensorrt-toolkit/gpu-check/1", "onnx-tensorrt-toolkit/gpu-check/1"),
        ("images/s, a/b and https://example.org/a/b", "images/s, a/b and https://example.org/a/b"),
    ],
)
def test_a_record_names_no_folder_of_the_machine(text, kept):
    assert gpu_check.without_folders({"a": [text, 1, None]}) == {"a": [kept, 1, None]}


def test_without_a_gpu_it_says_so_and_exits_with_2(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "gpu-check", "--output", tmp_path / "record.json"],
        cwd=tmp_path, env={"PATH": "/nowhere"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 2:
        pytest.skip("this machine has a GPU")
    assert "no NVIDIA GPU answers" in done.stderr
    assert not (tmp_path / "record.json").exists()


class TestRecord:
    @pytest.fixture
    def gpu(self, monkeypatch):
        target = Target("linux-x86_64", "3.12.3", "a CPU", 2, (Gpu(0, "NVIDIA H200", "9.0", 1 << 37),), "580.1")
        monkeypatch.setattr(gpu_check, "detect", lambda: target)

    def test_every_part_is_in_the_record_and_what_failed_is_in_the_exit_code(
        self, gpu, monkeypatch, tmp_path, capsys
    ):
        timing = {"runs": 9, "images_per_second": 1234.5}
        figures = {
            "rows": [
                {"name": "fast", "batches": {"1": timing, "8": timing}},
                {"name": "slow", "batches": {"1": timing, "8": {"not_measured": "died in /tmp/x/y.so"}}},
            ]
        }
        monkeypatch.setattr(gpu_check, "_test_file", lambda file, limit: gpu_check.parse_junit(JUNIT))
        monkeypatch.setattr(gpu_check, "_child", lambda module, *_, limit: figures)
        path = tmp_path / "results" / "record.json"
        assert gpu_check.main(["--output", str(path)]) == 1, "tests failed"
        record = json.loads(path.read_text())
        files = len(list((ROOT / "tests" / "gpu").glob("test_*.py")))
        assert (record["tests"]["passed"], record["tests"]["failed"]) == (2 * files, 3 * files)
        assert record["tests"]["skips"] == {"no tensorrt": 2 * files}
        assert record["figures"]["rows"][1]["batches"]["8"]["not_measured"] == "died in y.so"
        assert record["tensorrt_for_rtx"][0]["reason"] == "tensorrt-rtx is not installed"
        assert record["schema"] == gpu_check.SCHEMA
        text = capsys.readouterr().out
        assert "1: 1234/s  8: not measured died in y.so" in text
        assert "failed: test_cuda::test_b: assert 1 == 2 more" in text

    def test_a_part_that_dies_leaves_its_reason(self, gpu, monkeypatch, tmp_path, capsys):
        path = tmp_path / "record.json"
        original = gpu_check._child
        monkeypatch.setattr(
            gpu_check, "_child", lambda module, *rest, limit: original("benchmarks.no_such_module", *rest, limit=60)
        )
        assert gpu_check.main(["--only", "figures", "--output", str(path)]) == 0
        record = json.loads(path.read_text())
        assert "No module named" in record["figures"]["not_measured"]
        assert record["tests"] == "not run"
        assert "figures: not measured" in capsys.readouterr().out

    def test_parts_that_outlast_the_time_leave_what_was_known_before(self, gpu, monkeypatch, tmp_path, capsys):
        seen = []

        def tests(file, limit):
            seen.append(json.loads(path.read_text()) if path.exists() else None)
            return gpu_check.parse_junit(JUNIT)

        monkeypatch.setattr(gpu_check, "_test_file", tests)
        path = tmp_path / "record.json"
        monkeypatch.setattr(gpu_check, "_commit", lambda: None)
        assert gpu_check.main(["--limit", "0", "--commit", "abc", "--output", str(path)]) == 1
        assert seen[0] is None
        assert [record["tests"]["passed"] for record in seen[1:]] == [2 * n for n in range(1, len(seen))]
        record = json.loads(path.read_text())
        assert record["commit"] == "abc"
        assert "not begun: the time was over" in record["figures"]["not_measured"]

    @pytest.mark.parametrize(("parts", "most"), [((), 50.0), (("--only", "tests"), 100.0)])
    def test_tests_leave_the_figures_their_time(self, gpu, monkeypatch, tmp_path, parts, most):
        given = []
        monkeypatch.setattr(gpu_check, "_test_file", lambda file, limit: given.append(limit) or gpu_check.no_tests())
        monkeypatch.setattr(gpu_check, "_child", lambda *_, limit: {"not_measured": f"{limit:.0f} s"})
        gpu_check.main(["--limit", "100", "--output", str(tmp_path / "record.json"), *parts])
        assert most - 5 < max(given) <= most

    def test_the_file_is_named_after_gpu_and_day(self):
        assert gpu_check._default_path("NVIDIA RTX PRO 6000 (Blackwell)").name.startswith(
            "gpu-rtx-pro-6000-blackwell-2"
        )


def environment():
    return dict(os.environ) | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def gone(pid):
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


class TestProcesses:
    def test_one_that_hangs_is_stopped_with_its_children_and_leaves_its_last_answer(self, tmp_path):
        code = (
            "import subprocess, sys, time; child = subprocess.Popen(['sleep', '60']);"
            """print('{"child": %d}' % child.pid); print('{"cut', end='', flush=True); time.sleep(60)"""
        )
        done = gpu_process.run_for([sys.executable, "-c", code], 3, folder=tmp_path, environment=environment())
        assert done.problem == "stopped after 3 s"
        child = gpu_process.last_json(done.output)["child"]
        for _ in range(200):  # a killed process takes a moment to go
            if gone(child):
                break
            time.sleep(0.05)
        assert gone(child)

    def test_one_that_dies_says_how(self, tmp_path):
        done = gpu_process.run_for(
            [sys.executable, "-c", "import os; os.abort()"], 30, folder=tmp_path, environment=environment()
        )
        assert done.problem.startswith("ended with code -6")
        assert gpu_process.run_for(["true"], 0, folder=tmp_path, environment={}).problem.startswith("not begun")

    @pytest.mark.parametrize("end", ["os.abort()", "time.sleep(60)"], ids=["crashes", "hangs"])
    def test_tests_that_die_are_counted_up_to_there(self, tmp_path, end):
        (tmp_path / "test_it.py").write_text(
            "import os, time, pytest\n"
            "def test_good(): pass\n"
            "@pytest.mark.skip(reason='none here')\ndef test_not(): pass\n"
            "def test_bad(): assert 0\n"
            f"@pytest.mark.parametrize('x', ['two words'])\ndef test_last(x): {end}\n"
        )
        command = [sys.executable, "-m", "pytest", "test_it.py", "-v", "-p", "no:cacheprovider"]
        done = gpu_process.run_for(command, 5, folder=tmp_path, environment=environment())
        result = gpu_process.parse_progress(done.output, done.problem)
        assert (result["passed"], result["skipped"], result["failed"]) == (1, 1, 2)
        assert [failure["name"] for failure in result["failures"]] == [
            "test_it::test_bad",
            "test_it::test_last[two words]",
        ]
        assert result["failures"][1]["reason"].startswith(("ended with code -6", "stopped after 5 s"))


def test_the_question_to_tensorrt_for_rtx_is_a_plan_that_really_builds(tmp_path):
    graph = tmp_path / "tiny.onnx"
    onnx.save(tiny_graph(), graph)
    plan = gpu_rtx._build(tensorrt_rtx, graph, "default")
    assert parse_header(plan, len(plan)).kind == "tensorrt-rtx"
