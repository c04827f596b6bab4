"""What a machine has, told from real answers of nvidia-smi and from the packages of this very environment."""

import importlib.metadata
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest

from engines import nvidia_wheels, providers, target
from engines.providers import ProviderProbe, probe_provider, probe_providers
from engines.target import Gpu, detect, find_clashes, find_gpus, find_libraries, parse_nvidia_smi

# As ONNX Runtime 1.31 prints it where the CUDA wheels are missing.
MISSING_CUDA = (
    "\x1b[1;31m2026-11-22 [E:onnxruntime:Default, provider_bridge_ort.cc:2458] Failed to load library "
    "/x/libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: cannot open shared object file: "
    "No such file or directory\n\x1b[m\nreason: all nodes fell back"
)


def distribution(folder, name, version="1.0"):
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def program(folder, name, text):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


class TestGpus:
    def test_one_line_a_gpu_and_the_driver_from_any(self):
        text = "0, NVIDIA H200, 9.0, 143771, 580.159.03\n1, NVIDIA GeForce RTX 4090, 8.9, 24564, 580.159.03\n"
        assert parse_nvidia_smi(text) == (
            (Gpu(0, "NVIDIA H200", "9.0", 143771 * 2**20), Gpu(1, "NVIDIA GeForce RTX 4090", "8.9", 24564 * 2**20)),
            "580.159.03",
        )

    def test_memory_that_the_driver_does_not_tell_is_none(self):
        gpus, _ = parse_nvidia_smi("0, NVIDIA GB10, 12.1, [N/A], 580.95\n")
        assert gpus == (Gpu(0, "NVIDIA GB10", "12.1", None),)

    @pytest.mark.parametrize("text", ["", "No devices were found\n", "NVIDIA-SMI has failed\n"])
    def test_other_answers_mean_no_gpu(self, text):
        assert parse_nvidia_smi(text) == ((), None)

    def test_nvidia_smi_is_asked_for_what_the_parser_reads(self, tmp_path, monkeypatch):
        program(tmp_path, "nvidia-smi", f"echo \"$@\" > {tmp_path}/asked; echo '0, NVIDIA L4, 8.9, 23034, 570.1'")
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        assert find_gpus() == ((Gpu(0, "NVIDIA L4", "8.9", 23034 << 20),), "570.1")
        query, layout = (tmp_path / "asked").read_text().split()
        assert query == "--query-gpu=index,name,compute_cap,memory.total,driver_version"
        assert layout == "--format=csv,noheader,nounits"

    def test_an_nvidia_smi_that_fails_leaves_it_to_the_driver(self, tmp_path, monkeypatch):
        program(tmp_path, "nvidia-smi", "exit 9")
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setattr(target, "_gpus_of_driver", lambda: ((), "asked"))
        assert find_gpus() == ((), "asked")


class TestPackages:
    def test_versions_are_those_that_the_libraries_say_themselves(self):
        found = find_libraries()
        assert found["onnx"] == onnx.__version__
        assert found["onnxruntime"] == onnxruntime.__version__
        assert "no-such-package" not in found

    def test_packages_in_one_folder_that_share_files_clash(self, tmp_path, monkeypatch):
        for name in ("onnxruntime", "onnxruntime-gpu", "tensorrt-cu13-bindings"):
            distribution(tmp_path, name)
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
        (clash,) = find_clashes()
        assert clash.startswith("onnxruntime and onnxruntime-gpu overwrite each other: pip uninstall -y onnxruntime ")

    def test_packages_in_folders_apart_do_not_clash(self, tmp_path, monkeypatch):
        distribution(tmp_path / "a", "onnxruntime")
        distribution(tmp_path / "b", "onnxruntime-gpu")
        monkeypatch.setattr(sys, "path", [str(tmp_path / "a"), str(tmp_path / "b")])
        assert find_clashes() == ()

    def test_an_installed_library_that_does_not_import_is_told_with_its_reason(self, tmp_path, monkeypatch):
        (tmp_path / "tensorrt").mkdir()
        (tmp_path / "tensorrt" / "__init__.py").write_text("raise ImportError('libnvinfer.so.11: cannot open')")
        monkeypatch.syspath_prepend(tmp_path)
        assert target.find_broken()["tensorrt"] == "ImportError: libnvinfer.so.11: cannot open"

    def test_openvino_is_tried_without_the_statistics_that_its_import_sends(self, tmp_path, monkeypatch):
        (tmp_path / "openvino.py").write_text("import openvino_telemetry")
        (tmp_path / "openvino_telemetry.py").write_text("raise SystemExit('sent')")
        monkeypatch.syspath_prepend(tmp_path)
        assert "import of openvino_telemetry halted" in target.find_broken()["openvino"]

    def test_an_emptied_onnxruntime_is_a_problem(self, monkeypatch):
        monkeypatch.delattr(onnxruntime, "get_available_providers")
        assert any("empty" in problem for problem in detect().problems)


class TestProviders:
    def test_the_cpu_provider_really_runs(self):
        assert probe_provider("CPUExecutionProvider") == ProviderProbe("CPUExecutionProvider", loads=True)
        assert ProviderProbe("CPUExecutionProvider", loads=True) in probe_providers()

    def test_the_probe_graph_is_valid(self):
        model = onnx.load_from_string(providers._RELU)
        onnx.checker.check_model(model, full_check=True)
        assert [node.op_type for node in model.graph.node] == ["Relu"]

    def test_a_provider_that_is_not_there_does_not_load_and_says_why(self):
        probe = probe_provider("NoSuchExecutionProvider")
        assert not probe.loads
        assert "NoSuchExecutionProvider" in probe.problem
        assert "\n" not in probe.problem

    def test_a_process_that_hangs_is_given_up(self):
        assert probe_provider("CPUExecutionProvider", timeout=0.01).problem.startswith("no answer in")

    @pytest.mark.parametrize(
        ("output", "reason"),
        [
            (MISSING_CUDA, "libcublasLt.so.13 is not found"),
            (
                "reason: Please install TensorRT libraries as mentioned",
                "the TensorRT libraries that it was built for",
            ),
            ("x CUDA failure 35: driver version is insufficient; GPU=0\n", "CUDA failure 35: driver version is"),
            ("reason: something else\n", "something else"),
            ("", "ended with code 3"),
        ],
    )
    def test_the_reason_is_found_in_what_the_library_prints(self, output, reason):
        assert reason in providers._reason(output, 3)

    def test_the_probe_finds_this_package_from_any_folder(self, tmp_path):
        code = (
            "import sys; sys.path.insert(0, sys.argv[1]); from engines.providers import probe_provider; "
            "sys.exit(not probe_provider('CPUExecutionProvider').loads)"
        )
        home = str(Path(providers.__file__).parent.parent)
        done = subprocess.run([sys.executable, "-c", code, home], cwd=tmp_path, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")


class TestNvidiaWheels:
    def test_libraries_below_any_nvidia_folder_of_the_path_are_candidates(self, tmp_path, monkeypatch):
        names = ["cu13/lib/libcublas.so.13", "cublas/lib/libcublas.so.12", "cudnn/lib/libcudnn.so.9"]
        for folder, name in zip(("a", "a", "b"), names, strict=True):
            path = tmp_path / folder / "nvidia" / name
            path.parent.mkdir(parents=True)
            path.write_bytes(b"not a library")
        monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "a"), str(tmp_path / "b")])
        monkeypatch.delitem(sys.modules, "nvidia", raising=False)
        for name, count in {"cublas": 2, "cudnn": 1, "cufft": 0}.items():
            found = [path for path in nvidia_wheels._candidates(name) if tmp_path in path.parents]
            assert len(found) == count
        assert nvidia_wheels.load_nvidia_wheels.__wrapped__() == (), "what doesn't load is left out without an error"


class TestDetect:
    def test_everything_is_json(self):
        value = json.loads(json.dumps(detect().to_json()))
        assert value["libraries"]["numpy"] == importlib.metadata.version("numpy")
        assert value["cores"] >= 1
        assert {"platform", "python", "cpu", "gpus", "driver", "providers", "broken", "problems"} <= value.keys()

    def test_without_probing_no_process_is_started(self, monkeypatch):
        monkeypatch.setattr(target, "probe_providers", lambda: pytest.fail("probed"))
        monkeypatch.setattr(target, "find_broken", lambda: pytest.fail("probed"))
        assert detect(probe=False).providers == ()

    def test_looking_imports_no_heavy_library(self):
        code = (
            "import sys; from engines.target import detect; detect(probe=False); heavy = {'torch', 'onnx', "
            "'onnxruntime', 'tensorrt', 'tensorrt_rtx'} & set(sys.modules); sys.exit(', '.join(heavy) or 0)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
