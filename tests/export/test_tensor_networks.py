"""Networks with several inputs and outputs, exported and held against PyTorch."""

from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper

from engines.answers import answers_of
from engines.errors import InputError
from engines.tensors import TensorSpec
from export import reference
from export.graph import inputs, outputs, read_metadata
from export.onnx_export import to_onnx
from export.precision import to_half
from export.verification import Verification
from export.verify import verify
from export.verify_samples import lookups
from tests.tensor_nets import WORDS, samples, segmentation, text, two_inputs

NETWORKS = {"two inputs": two_inputs, "segmentation": segmentation, "text": text}


@pytest.fixture(scope="module")
def exported():
    found = {}
    for name, make in NETWORKS.items():
        module, metadata = make()
        found[name] = module, metadata, to_onnx(module, metadata)
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_the_graph_has_the_metadatas_tensors_and_computes_them_at_any_batch(name, exported):
    module, metadata, graph = exported[name]
    assert inputs(graph) == metadata.taken
    assert outputs(graph) == metadata.given
    assert read_metadata(graph) == metadata
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        feeds = samples(metadata, batch, seed=batch)
        with torch.no_grad():
            wanted = answers_of(module(*map(torch.from_numpy, feeds.values()))).values()
        for found, want in zip(session.run(None, feeds), wanted, strict=True):
            assert found.dtype == want.numpy().dtype
            np.testing.assert_allclose(found, want.numpy(), atol=2e-5)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_output_is_verified_by_its_own_noise_floor(name, precision, exported):
    module, metadata, graph = exported[name]
    judged = graph if precision == "fp32" else to_half(graph, "fp16")
    given = None if metadata.pictures else samples(metadata, 3)
    result = verify(module, judged, metadata, tensors=given, batch_sizes=(1, 5), seed=1)
    assert result.problems == ()
    assert result.passed
    kinds = 1 if metadata.pictures else 2
    assert len(result.measurements) == kinds * 2 * len(metadata.given)
    assert [one.output for one in result.measurements[: len(metadata.given)]] == (
        [spec.name for spec in metadata.outputs] or [""]
    )
    assert Verification.from_json(result.to_json()) == result
    assert inputs(judged) == metadata.taken  # integers and the interface stay as they are
    assert ("output" in result.to_json()["measurements"][0]) == bool(metadata.outputs)


def changed(graph, name, factor):
    """The graph with one constant scaled."""
    copy = type(graph)()
    copy.CopyFrom(graph)
    tensor = next(item for item in copy.graph.initializer if item.name == name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), name))
    return copy


def test_a_changed_constant_fails_at_the_output_that_it_changes(exported):
    module, metadata, graph = exported["two inputs"]
    result = verify(module, changed(graph, "embedding.weight", 1.001), metadata, batch_sizes=(2,))
    assert not result.passed
    assert len(result.problems) == 1
    assert "embedding" in result.problems[0]


def test_integers_must_be_equal_where_rounding_decides_nothing(exported):
    module, metadata, graph = exported["segmentation"]
    result = verify(module, changed(graph, "head.weight", -1), metadata, batch_sizes=(2,))
    assert any("classes: " in line and "elements differ" in line for line in result.problems)


def test_random_tokens_lie_in_the_table_that_they_are_looked_up_in(exported):
    assert lookups(exported["text"][2]) == {"ids": WORDS}
    assert lookups(exported["two inputs"][2]) == {}


def test_float64_is_float64_though_the_network_asks_for_float32_itself():
    module, metadata = text()
    feeds = samples(metadata, 4)
    found = reference.run(reference.exact(module), list(feeds.values()), 2)
    weights = {name: value.double().numpy() for name, value in module.state_dict().items()}
    mask = feeds["mask"][..., None].astype(np.float64)
    x = (weights["embed.weight"][feeds["ids"]] * mask).sum(1) / np.maximum(mask.sum(1), 1)
    hidden = np.maximum(x @ weights["fc.weight"].T + weights["fc.bias"], 0)
    np.testing.assert_allclose(found, hidden @ weights["out.weight"].T + weights["out.bias"], rtol=1e-13)
    assert torch.get_default_dtype() == torch.float32


def test_what_does_not_fit_the_metadata_is_refused(exported):
    module, metadata, graph = exported["two inputs"]
    with pytest.raises(InputError, match="not position: "):
        to_onnx(module, replace(metadata, outputs=metadata.outputs[:1]))
    with pytest.raises(InputError, match="can't take float32"):
        to_onnx(module, replace(metadata, inputs=metadata.inputs[::-1]))
    with pytest.raises(InputError, match="real samples for vector"):
        verify(module, graph, metadata, tensors={"image": samples(metadata, 2)["image"]}, batch_sizes=(1,))
    other = replace(metadata, inputs=(metadata.inputs[0], TensorSpec("vector", "float32", ("batch", 7))))
    assert "not vector: float32[batch, 7]" in verify(module, graph, other, batch_sizes=(1,)).problems[0]
