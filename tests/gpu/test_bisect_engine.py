"""``toolkit bisect`` of an engine on a real GPU: the layer that it computes otherwise is named, and only that one."""

from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

import toolkit
from engines.errors import ToolkitError
from engines.header import RTX_CAPABILITIES
from export.graph import load_graph, save_graph
from export.precision import to_half
from tests.gpu.conftest import cannot, need
from tests.tiny import METADATA, tiny_graph, tiny_images
from toolkit.data.dataset import Dataset, PreprocessHint, Split


@pytest.fixture(scope="module")
def data() -> Dataset:
    images, labels = tiny_images(48), np.arange(48) % len(METADATA.labels)
    half = Split(images[:32], labels[:32]), Split(images[32:], labels[32:])
    return Dataset("pictures", METADATA.labels, *half, PreprocessHint("stretch", 3, 16, 16))


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_an_engines_wrong_layer_is_named_and_an_honest_engine_has_none(
    backend: str, data: Dataset, tmp_path: Path
) -> None:
    need(backend.replace("-", "_"), "cuda.core")
    from engines.cuda import CudaDevice

    capability = CudaDevice(0).compute_capability
    if backend == "tensorrt-rtx" and capability not in RTX_CAPABILITIES:
        pytest.skip(f"TensorRT for RTX has no target for compute capability {capability}")
    master, wrong = tmp_path / "model.onnx", tmp_path / "wrong.onnx"
    save_graph(tiny_graph(), master)
    model = load_graph(master)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "conv2.weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.05), weight.name))
    save_graph(to_half(model, "fp16"), wrong)
    named = {}
    for graph in (master, wrong):
        try:
            built = toolkit.build_engine(graph, precision="fp16", backend=backend, batch=["1:8:8"])
        except ToolkitError as error:
            cannot(f"no engine could be built: {error}")
        found = toolkit.bisect(master, built.engine, data, images=24)
        assert found.elsewhere is not None
        assert found.elsewhere.backend == backend
        assert not found.misled
        named[graph] = [layer.node for layer in found.layers if layer.over]
        if graph == wrong:
            assert found.mending is not None
            assert found.mending.keep == ("conv2",)
    assert named == {master: [], wrong: ["conv2"]}
