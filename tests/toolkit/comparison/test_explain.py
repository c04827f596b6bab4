from dataclasses import replace

import pytest

from engines.sessions.base import StageTimes
from engines.sessions.proof import Proof
from tests.toolkit.comparison.judged import CPU, GPU, accuracy, comparison, layers, row
from toolkit.comparison.verdicts import judge

NAMES = ("conv1", "conv2")
UNFUSED = layers("int8", placement="tensorrt", unfused=NAMES, heavy=2)
FP32 = row("model.onnx", {1: 0.010, 8: 0.080}, "fp32")


def explained(*rows, **others):
    verdicts = judge(comparison(*rows, data=None, **others))
    return {verdict.subject: verdict for verdict in verdicts if verdict.kind == "no-faster"}


def reasons(verdict):
    return [one["reason"] for one in verdict.facts["reasons"]]


def test_int8_placed_for_tensorrt_is_explained_by_kernels_that_do_not_fuse_it_and_the_remedy_is_the_rival():
    int8 = row("model.int8.onnx", {1: 0.016, 8: 0.130}, layers=UNFUSED)
    placed = row("model.int8.ort.onnx", {1: 0.004, 8: 0.030}, "int8")
    found = explained(FP32, int8, placed)
    assert set(found) == {"model.int8.onnx"}
    verdict = found["model.int8.onnx"]
    assert verdict.facts["than"] == "model.onnx"
    assert verdict.facts["ratios"]["1"]["value"] == pytest.approx(0.010 / 0.016, rel=0.02)
    assert reasons(verdict) == ["not-fused"]
    assert verdict.facts["reasons"][0]["unfused"] == list(NAMES)
    assert "INT8 is slower than FP32 here (0.6" in verdict.text
    assert ") the speed of model.onnx at batch 1, 0.6" in verdict.text
    assert "placed for TensorRT" in verdict.text
    assert "conv1 and conv2" in verdict.text
    assert "Use model.int8.ort.onnx" in verdict.text


def test_without_a_rival_that_is_placed_right_the_command_that_builds_it_is_given():
    verdict = explained(FP32, row("model.int8.onnx", {1: 0.016}, layers=UNFUSED))["model.int8.onnx"]
    assert "toolkit build-engine model.onnx --int8 --backend onnxruntime" in verdict.facts["remedy"]


def test_a_graph_that_is_placed_for_onnx_runtime_already_isnt_told_to_be_placed_for_it():
    placed = layers("int8", placement="onnxruntime", unfused=NAMES, heavy=2)
    verdict = explained(FP32, row("model.int8.ort.onnx", {1: 0.016}, layers=placed))["model.int8.ort.onnx"]
    assert reasons(verdict) == ["not-fused"]
    assert not verdict.facts.get("remedy")


def test_other_libraries_and_gpus_fuse_what_onnx_runtimes_cpu_kernels_do_not():
    for place in ({"backend": "openvino"}, {"device": "cuda:0"}):
        rows = row("fp32", {1: 0.010}, "fp32", **place), row("int8", {1: 0.016}, layers=UNFUSED, **place)
        assert reasons(explained(*rows)["int8"]) == ["unknown"]


def test_layers_that_stayed_in_float_are_named():
    partial = layers("int8", shares={"int8": 0.75, "fp32": 0.25}, float_layers=NAMES)
    verdict = explained(FP32, row("partial", {1: 0.010}, layers=partial, seed=1))["partial"]
    assert reasons(verdict) == ["float-layers"]
    assert "2 of 8 convolutions and matrix products stayed in FP32: conv1 and conv2" in verdict.text
    assert "INT8 is no faster than FP32" in verdict.text


def test_fp16_on_an_x86_cpu_has_no_kernels_and_on_other_cpus_nothing_is_claimed():
    fp16 = row("model.fp16.onnx", {1: 0.010}, "fp16", seed=1)
    assert reasons(explained(FP32, fp16)["model.fp16.onnx"]) == ["no-kernels"]
    arm = replace(CPU, architecture="aarch64", instructions=("asimddp",))
    assert reasons(explained(FP32, fp16, machines=(arm,))["model.fp16.onnx"]) == ["unknown"]


def test_a_cpu_without_integer_dot_products_is_a_reason_and_an_unknown_one_is_not():
    int8 = row("int8", {1: 0.010}, "int8", seed=1)
    old = replace(CPU, instructions=("avx2", "avx512f"))
    assert reasons(explained(FP32, int8, machines=(old,))["int8"]) == ["no-integer-dot"]
    assert reasons(explained(FP32, int8)["int8"]) == ["unknown"]
    assert reasons(explained(FP32, int8, machines=(replace(CPU, instructions=()),))["int8"]) == ["unknown"]


def test_what_fell_back_to_another_provider_is_told():
    proof = Proof(
        "CPUExecutionProvider", "node times", {"CPUExecutionProvider": 1.0}, ("12 of 20 nodes ran on the CPU",)
    )
    verdict = explained(FP32, row("int8", {1: 0.010}, "int8", proof=proof, seed=1))["int8"]
    assert reasons(verdict) == ["fell-back"]
    assert "12 of 20 nodes ran on the CPU" in verdict.text


def on_gpu(name, seconds, precision, device, *, copies, seed=0, **others):
    stages = {1: StageTimes(copies * 0.8, device, copies * 0.2)}
    return row(name, {1: seconds}, precision, backend="tensorrt", device="cuda:0", stages=stages, seed=seed, **others)


def test_copies_and_calls_that_outweigh_the_engine_are_told_with_their_times():
    fp16 = on_gpu("fp16.engine", 0.0010, "fp16", 0.00030, copies=0.0005)
    int8 = on_gpu("int8.engine", 0.0010, "int8", 0.00015, copies=0.0005, seed=1)
    verdict = explained(fp16, int8, machines=(GPU,))["int8.engine"]
    assert reasons(verdict) == ["overhead"]
    facts = verdict.facts["reasons"][0]
    assert (facts["device_seconds"], facts["device_seconds_wider"]) == (0.00015, 0.0003)
    assert "0.15 of" in verdict.text
    assert "fp16.engine computes for 0.30 ms" in verdict.text
    assert "--uint8-input" in verdict.text
    uint8 = on_gpu("int8.engine", 0.0010, "int8", 0.00015, copies=0.0005, seed=1, dtype="uint8")
    assert "--uint8-input" not in explained(fp16, uint8, machines=(GPU,))["int8.engine"].text
    calls = on_gpu("int8.engine", 0.0010, "int8", 0.00015, copies=0.0001, seed=1)
    assert "Larger batches" in explained(fp16, calls, machines=(GPU,))["int8.engine"].text


def test_an_engine_that_is_busy_is_not_explained_by_overhead():
    fp16 = on_gpu("fp16.engine", 0.0010, "fp16", 0.0009, copies=0.0001)
    int8 = on_gpu("int8.engine", 0.0010, "int8", 0.0009, copies=0.0001, seed=1)
    verdict = explained(fp16, int8, machines=(GPU,))["int8.engine"]
    assert reasons(verdict) == ["unknown"]
    assert "toolkit inspect int8.engine" in verdict.text


def test_intervals_that_are_too_wide_are_the_answer_themselves():
    noisy = row("int8", {1: 0.009}, "int8", noise=0.6)
    verdict = explained(row("model.onnx", {1: 0.010}, "fp32", noise=0.6), noisy)["int8"]
    assert reasons(verdict) == ["unknown"]
    assert "not measurably faster than FP32 here" in verdict.text
    assert "too wide to tell" in verdict.text
    assert "--seconds" in verdict.text


def test_the_next_wider_precision_counts_where_it_fails_to_beat_both():
    int8 = row("int8", {1: 0.016}, layers=UNFUSED)
    found = explained(FP32, row("fp16", {1: 0.010}, "fp16", seed=1), int8)
    assert found["int8"].facts["than"] == "fp16"
    slower = row("fp16", {1: 0.020}, "fp16")
    assert explained(FP32, slower, int8)["int8"].facts["than"] == "model.onnx"


def test_a_faster_one_another_backend_another_model_and_another_machine_need_no_explanation():
    assert not explained(FP32, row("int8", {1: 0.004, 8: 0.03}, "int8"))
    assert not explained(FP32, row("int8", {1: 0.016}, "int8", backend="openvino"))
    checkpoints = [{"sources": {"checkpoint": f"sha256:{number}"}} for number in range(2)]
    one, other = (
        row("a", {1: 0.01}, "fp32", passport=checkpoints[0]),
        row("b", {1: 0.02}, "int8", passport=checkpoints[1]),
    )
    assert not explained(one, other)
    assert explained(one, replace(other, passport=checkpoints[0]))
    assert not explained(replace(one, architecture="alexnet"), replace(other, passport=None, architecture="vgg"))
    assert not explained(FP32, row("int8", {1: 0.016}, "int8", machine=1), machines=(CPU, GPU))


def test_where_it_is_faster_at_some_batch_sizes_only_the_others_are_named():
    verdict = explained(FP32, row("int8", {1: 0.010, 8: 0.02}, "int8", seed=1))["int8"]
    assert list(verdict.facts["ratios"]) == ["1"]


def test_the_accuracy_of_a_row_does_not_matter_to_its_speed():
    found = judge(comparison(replace(FP32, accuracy=accuracy(900)), row("int8", {1: 0.016}, layers=UNFUSED)))
    assert "no-faster" in {verdict.kind for verdict in found}
