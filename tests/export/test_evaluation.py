import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss

from engines.preprocess import Preprocess
from export.evaluation import evaluate, normalise, resolve_precision
from tests.export.tiny_net import SPEC, TinyNet


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(5, 7),
        Preprocess(4, 4, channels=1, mean=(0.449,), std=(0.226,)),
        Preprocess(3, 3, mean=(0.1, 0.2, 0.3), std=(0.7, 0.8, 0.9)),
    ],
)
def test_normalisation_in_torch_is_the_preprocessings_bit_for_bit(preprocess: Preprocess) -> None:
    shape = (4, preprocess.height, preprocess.width, preprocess.channels)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    x = normalise(pixels, preprocess)
    assert x.dtype == torch.float32
    assert x.contiguous().numpy().tobytes() == preprocess.normalise(pixels).tobytes()


def test_every_pixel_value_normalises_to_the_same_bits() -> None:
    pixels = np.repeat(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1), 3, axis=3)
    assert normalise(pixels, SPEC.preprocess).contiguous().numpy().tobytes() == (
        SPEC.preprocess.normalise(pixels).tobytes()
    )


def test_evaluation_agrees_with_scikit_learn() -> None:
    torch.manual_seed(0)
    module = TinyNet(3).eval()
    rng = np.random.default_rng(5)
    pixels, labels = rng.integers(0, 256, (23, 16, 16, 3), np.uint8), rng.integers(0, 3, 23)
    with torch.no_grad():
        logits = module(torch.from_numpy(SPEC.preprocess.normalise(pixels))).double().numpy()
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    batches = [(pixels[:10], labels[:10]), (pixels[10:20], labels[10:20]), (pixels[20:], labels[20:])]
    loss, accuracy = evaluate(module, batches, SPEC.preprocess)
    assert loss == pytest.approx(log_loss(labels, shares, labels=[0, 1, 2]), rel=1e-6)
    assert accuracy == accuracy_score(labels, logits.argmax(1))


def test_auto_precision_is_bf16_only_where_the_cpu_has_tiles_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for capabilities, expected in [({"amx_bf16": True}, "bf16"), ({"avx512_bf16": True, "amx_bf16": False}, "fp32")]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False)
        assert resolve_precision("auto", cpu) == expected
    assert resolve_precision("bf16", cpu) == "bf16"
