"""Machines with this and without that, and what the doctor says of each."""

import json
from dataclasses import replace

import pytest

from engines.providers import ProviderProbe
from engines.target import Gpu, Target
from toolkit import doctor as doctor_module
from toolkit.cli import run
from toolkit.doctor import diagnose

LIBRARIES = {
    "torch": "2.13.0", "onnx": "1.23.2", "onnxscript": "0.7.2", "onnxruntime-gpu": "1.31.1", "tensorrt": "11.4.0.106",
    "tensorrt-rtx": "1.7.1", "openvino": "2026.4.1", "pillow": "13.0.0", "scikit-learn": "1.9.1",
    "cuda-core": "1.2.2", "nvidia-ml-py": "13.615.71",
}  # fmt: skip
CPU = ProviderProbe("CPUExecutionProvider", loads=True)
CUDA = ProviderProbe("CUDAExecutionProvider", loads=True)
TENSORRT = ProviderProbe("TensorrtExecutionProvider", loads=True)
L4 = Gpu(0, "NVIDIA L4", "8.9", 23 << 30)
H200 = Gpu(0, "NVIDIA H200", "9.0", 140 << 30)
FULL = Target(
    "linux-x86_64", "3.12.3", "some CPU", 16, (L4,), "580.1", libraries=LIBRARIES, providers=(TENSORRT, CUDA, CPU),
    compiler="g++",
)  # fmt: skip


def abilities(target, missing=()):
    diagnosis = diagnose(target, importable=lambda module: module not in missing)
    return {ability.name: ability for ability in diagnosis.abilities}, diagnosis


def test_a_full_gpu_machine_can_do_everything():
    found, diagnosis = abilities(FULL)
    assert all(ability.works and not ability.remedy for ability in found.values())
    assert diagnosis.healthy
    assert found["run-tensorrt"].detail == "tensorrt 11.4.0.106, NVIDIA L4"
    assert found["run-onnxruntime-cpu"].detail == "onnxruntime-gpu 1.31.1"


@pytest.mark.parametrize(
    ("module", "lost", "extra"),
    [
        ("torch", {"train", "export", "run-torch-compile"}, "export"),
        ("onnxscript", {"export"}, "export"),
        ("onnx", {"export", "calibrate"}, ""),
        ("onnxruntime", {"calibrate", "run-onnxruntime-cpu"}, "onnxruntime"),
        ("openvino", {"run-openvino"}, "openvino"),
        ("PIL", {"images"}, "data"),
        ("sklearn", {"digits"}, "data"),
        ("tensorrt", {"build-tensorrt", "run-tensorrt"}, "tensorrt"),
        ("tensorrt_rtx", {"build-rtx", "run-rtx"}, "tensorrt-rtx"),
        ("cuda.core", {"run-tensorrt", "run-rtx"}, ""),
        ("pynvml", {"watch-gpus"}, ""),
    ],
)
def test_a_missing_package_costs_what_needs_it_and_has_a_pip_line(module, lost, extra):
    found, diagnosis = abilities(FULL, {module})
    assert {name for name, ability in found.items() if not ability.works} == lost
    for name in lost:
        assert found[name].remedy.startswith("pip install 'onnx-tensorrt-toolkit[")
        assert f"[{extra}" in found[name].remedy
        assert "is not installed" in found[name].detail
    assert diagnosis.healthy, "what is merely missing is no fault"


def test_every_pip_line_names_an_extra_that_exists():
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    everything = {
        "torch",
        "onnx",
        "onnxscript",
        "onnxruntime",
        "openvino",
        "PIL",
        "sklearn",
        "tensorrt",
        "tensorrt_rtx",
        "cuda.core",
        "pynvml",
    }
    for target in (FULL, replace(FULL, gpus=(), providers=(CPU,)), replace(FULL, providers=(CPU,))):
        for ability in abilities(target, everything)[0].values():
            if "pip install" in ability.remedy:
                extra = ability.remedy.partition("onnx-tensorrt-toolkit[")[2].partition("]")[0]
                assert extra in project["optional-dependencies"]


def test_without_a_gpu_engines_for_rtx_can_still_be_built():
    found, diagnosis = abilities(replace(FULL, gpus=(), driver=None, providers=(CPU,)))
    assert {name for name, ability in found.items() if not ability.works} == {
        "run-onnxruntime-cuda", "run-onnxruntime-tensorrt", "run-rtx", "build-tensorrt", "run-tensorrt", "watch-gpus",
    }  # fmt: skip
    assert found["run-tensorrt"].detail == "no NVIDIA GPU or driver on this machine"
    assert found["run-tensorrt"].remedy == "on a machine with one: pip install 'onnx-tensorrt-toolkit[tensorrt]'"
    assert diagnosis.healthy


def test_a_gpu_that_tensorrt_for_rtx_does_not_support_is_named():
    found, _ = abilities(replace(FULL, gpus=(H200,)))
    assert not found["run-rtx"].works
    assert "NVIDIA H200 has compute capability 9.0; supported are 7.5, 8.0" in found["run-rtx"].detail
    assert found["run-tensorrt"].works


def test_a_cuda_provider_that_does_not_load_beside_a_gpu_is_a_problem():
    broken = ProviderProbe("CUDAExecutionProvider", loads=False, problem="libcudnn.so.9 is not found")
    found, diagnosis = abilities(replace(FULL, providers=(broken, CPU)))
    assert found["run-onnxruntime-cuda"].detail == "libcudnn.so.9 is not found"
    assert not diagnosis.healthy
    assert "libcudnn.so.9 is not found" in diagnosis.problems[0]
    _, elsewhere = abilities(replace(FULL, gpus=(), providers=(broken, CPU)))
    assert elsewhere.healthy, "without a GPU it can't load, and nothing is wrong"


def test_a_tensorrt_provider_that_does_not_load_says_what_it_misses_and_is_no_fault():
    broken = ProviderProbe("TensorrtExecutionProvider", loads=False, problem="libnvinfer.so.10 is not found")
    found, diagnosis = abilities(replace(FULL, providers=(broken, CUDA, CPU)))
    assert not found["run-onnxruntime-tensorrt"].works
    assert found["run-onnxruntime-tensorrt"].detail == "libnvinfer.so.10 is not found"
    assert found["run-onnxruntime-cuda"].works
    assert diagnosis.healthy


def test_a_missing_compiler_costs_compiling_alone():
    found, diagnosis = abilities(replace(FULL, compiler=""))
    assert {name for name, ability in found.items() if not ability.works} == {"run-torch-compile"}
    assert found["run-torch-compile"].detail == "PyTorch finds no C++ compiler"
    assert "g++" in found["run-torch-compile"].remedy
    assert diagnosis.healthy


def test_a_cpu_build_of_onnx_runtime_beside_a_gpu_is_told():
    found, diagnosis = abilities(replace(FULL, providers=(CPU,)))
    assert "pip uninstall -y onnxruntime" in found["run-onnxruntime-cuda"].remedy
    assert diagnosis.healthy


def test_a_library_that_fails_to_import_is_a_problem_and_costs_its_abilities():
    found, diagnosis = abilities(replace(FULL, broken={"tensorrt": "ImportError: libnvinfer.so.11"}))
    assert not found["build-tensorrt"].works
    assert diagnosis.problems == ("tensorrt is installed but fails to import: ImportError: libnvinfer.so.11",)


class TestCommand:
    def test_it_prints_this_machine_and_what_it_can_do(self, capsys):
        assert run(["doctor"]) == 0
        text = capsys.readouterr().out
        assert text.startswith("machine ")
        assert "Run graphs on the CPU" in text
        assert "CPUExecutionProvider" in text

    def test_json_is_one_object_with_the_same_facts(self, capsys):
        assert run(["doctor", "--json"]) == 0
        value = json.loads(capsys.readouterr().out)
        assert value["healthy"] is True
        names = [ability["name"] for ability in value["abilities"]]
        assert len(names) == len(set(names)) == 15

    def test_a_broken_installation_exits_with_1_and_names_the_problem(self, capsys, monkeypatch):
        target = replace(FULL, problems=("onnxruntime and onnxruntime-gpu overwrite each other",))
        monkeypatch.setattr(doctor_module, "detect", lambda: target)
        assert run(["doctor"]) == 1
        text = capsys.readouterr().out
        assert "problem: onnxruntime and onnxruntime-gpu overwrite each other" in text
        assert "GPU 0      NVIDIA L4, compute capability 8.9, 23 GiB" in text
        assert run(["doctor", "--json"]) == 1
