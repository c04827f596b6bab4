"""What quantisation costs a network: top-1 and agreement with FP32 on the test split, ours and the peers'."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from engines.preprocess import Preprocess
    from toolkit.data import Split

PEERS = Path(__file__).resolve().parent / "peers"
METHODS = (None, "entropy", "percentile", "mse", "minmax")
"""None: the default of ``toolkit calibrate``."""

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Peer:
    """One tool at one setting.

    Attributes:
        name: in the record.
        needs: the environment it runs in: "toolkit", "modelopt" or "nncf".
        script: in ``peers/``.
        options: of the script.
        suffix: of what it writes.
        default: what the tool does unless told otherwise.
    """

    name: str
    needs: str
    script: str
    options: tuple[str, ...]
    suffix: str = ".onnx"
    default: bool = False


PEER_SETTINGS = (
    Peer("quantize_static minmax", "toolkit", "by_quantize_static.py", ("--method", "minmax"), default=True),
    Peer("quantize_static entropy", "toolkit", "by_quantize_static.py", ("--method", "entropy")),
    Peer("quantize_static percentile", "toolkit", "by_quantize_static.py", ("--method", "percentile")),
    Peer("modelopt entropy", "modelopt", "by_modelopt.py", ("--method", "entropy"), default=True),
    Peer("modelopt max", "modelopt", "by_modelopt.py", ("--method", "max")),
    Peer("nncf openvino", "nncf", "by_nncf.py", ("--backend", "openvino"), ".xml", default=True),
    Peer("nncf onnx", "nncf", "by_nncf.py", ("--backend", "onnx")),
)


def command(peer: Peer, pythons: Mapping[str, str], graph: Path, images: Path, output: Path) -> list[str]:
    return [pythons[peer.needs], str(PEERS / peer.script), str(graph), str(images), str(output), *peer.options]


def write_images(split: "Split", preprocess: "Preprocess", path: Path, indices: Any = None) -> None:
    """Preprocessed images as one ``.npy``, which is what the peers are given: the same pixels, decoded for them."""
    from toolkit.data import float_batches

    order = np.arange(len(split)) if indices is None else indices
    shape = (len(order), preprocess.channels, preprocess.height, preprocess.width)
    target = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    done = 0
    for batch, _ in float_batches(split, preprocess, 64, indices=order):
        target[done : done + len(batch)] = batch
        done += len(batch)
    target.flush()


def logits_of(graph: Path, images: Path) -> Logits:
    """Through ONNX Runtime, as ``toolkit compare`` would."""
    from engines.sessions.onnxruntime import OnnxRuntimeSession

    pixels = np.load(images, mmap_mode="r")
    with OnnxRuntimeSession(graph, device="cpu") as session:
        name = session.inputs[0].name
        kind = session.inputs[0].dtype
        parts = np.array_split(pixels, max(1, len(pixels) // 32))
        found = [next(iter(session.run({name: part.astype(kind)}).values())) for part in parts]
        return np.concatenate(found).astype(np.float32)


def score(logits: Logits, labels: Any, reference: Logits | None = None) -> dict[str, Any]:
    """Shares of the images: right, and named as by the reference."""
    finite = np.isfinite(logits).all(1)
    named = np.where(finite, logits.argmax(1), -1)
    value: dict[str, Any] = {"top1": float((named == labels).mean())}
    if reference is not None:
        value["drop_points"] = float(100 * ((reference.argmax(1) == labels).mean() - (named == labels).mean()))
        value["agreement"] = float((named == reference.argmax(1)).mean())
    return value


def ours(
    graph: Path, data: Any, images: int, methods: Sequence[str | None], precision: str = "int8", **options: Any
) -> Iterator[tuple[str, str | None, Path]]:
    """Calibrate as ``toolkit calibrate`` does, and place: (method, reason of failure, typed graph)."""
    from calibration.qdq import quantise
    from engines.errors import ToolkitError
    from export.graph import load_graph, save_graph
    from toolkit.steps.calibrate import calibrate

    with tempfile.TemporaryDirectory(prefix="quantised-") as name:
        folder = Path(name)
        for method in methods:
            label, path = method or "default", folder / "typed.onnx"
            chosen = {} if method is None else {"method": method}
            if precision != "int8":
                chosen["precision"] = precision
            try:
                table = calibrate(
                    graph, data, images=images, output=folder / "table.json", force=True, **chosen, **options
                )
                save_graph(quantise(load_graph(graph), table, "tensorrt"), path)
            except (ToolkitError, TypeError, NotImplementedError) as error:
                yield label, f"{type(error).__name__}: {error}", path
                continue
            yield label, None, path


def measure(
    graph: Path,
    data: Any,
    pythons: Mapping[str, str],
    *,
    images: int = 512,
    methods: Sequence[str | None] = METHODS,
    peers: Sequence[Peer] = PEER_SETTINGS,
    limit: float = 300.0,
) -> dict[str, Any]:
    """FP32, ours by every method, and the peers, on one network.

    Args:
        graph: the FP32 master.
        data: a data set, or what ``open_dataset`` takes.
        pythons: the interpreter of each environment that is there.
        images: calibration images, the same for all.
        methods: ours.
        peers: theirs.
        limit: seconds after which a peer is killed.
    """
    from benchmarks.children import run
    from export.graph import peek_metadata
    from toolkit.data import choose, open_dataset

    dataset = open_dataset(data)
    metadata = peek_metadata(graph)
    assert metadata is not None, "a network of the benchmark tells its preprocessing"
    labels = dataset.test.labels
    with tempfile.TemporaryDirectory(prefix="accuracy-") as name:
        folder = Path(name)
        seen, unseen = folder / "train.npy", folder / "test.npy"
        write_images(dataset.train, metadata.preprocess, seen, choose(dataset.train, images))
        write_images(dataset.test, metadata.preprocess, unseen)
        reference = logits_of(graph, unseen)
        result: dict[str, Any] = {
            "test_images": len(labels),
            "calibration_images": images,
            "fp32": score(reference, labels),
            "toolkit": {},
            "peers": {},
        }
        for method, failure, path in ours(graph, data, images, methods):
            result["toolkit"][method] = (
                {"failure": failure} if failure else score(logits_of(path, unseen), labels, reference)
            )
            _tell(f"toolkit {method}", result["toolkit"][method])
        for peer in peers:
            if peer.needs not in pythons:
                result["peers"][peer.name] = {"failure": "not measured: no environment given"}
                continue
            quantised = folder / f"quantised{peer.suffix}"
            outcome = run(command(peer, pythons, graph, seen, quantised), limit=limit)
            value: dict[str, Any] = {"seconds": outcome.seconds}
            failure = outcome.failure
            if failure is None:
                answer = folder / "logits.npy"
                python = pythons["nncf" if peer.suffix == ".xml" else "toolkit"]
                check = run([python, str(PEERS / "infer.py"), str(quantised), str(unseen), str(answer)])
                failure = check.failure
                if failure is None:
                    value |= score(np.load(answer), labels, reference)
            if failure is not None:
                value["failure"] = failure
            result["peers"][peer.name] = value
            _tell(peer.name, value)
            for left in folder.glob("quantised*"):
                left.unlink()
    return result


def _tell(name: str, value: Mapping[str, Any]) -> None:
    if "failure" in value:
        print(f"  {name}: {value['failure']}", flush=True)
    else:
        print(f"  {name}: {100 * value['top1']:.2f} % (drop {value['drop_points']:.2f} points)", flush=True)
