import io
import json
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engines.errors import DataError, EngineFormatError
from tests.tiny import METADATA
from tests.toolkit.gate.networks import pictures
from toolkit.comparison.records.record import DataFacts
from toolkit.comparison.records.row import Row
from toolkit.gate.about import About, labels_digest
from toolkit.gate.asking import BATCH
from toolkit.gate.baseline import Baseline, digest_of_artifact
from toolkit.gate.distance import Distance
from toolkit.gate.keeping import writing
from toolkit.machine import describe

IMAGES, CLASSES = 70, len(METADATA.labels)


def about(images: int = IMAGES) -> About:
    return About(
        "2026-01-01T00:00:00+00:00",
        "toolkit diff old.engine --data x --baseline y.npz",
        Row("old.engine", "old.engine", 10, "sha256:ab"),
        METADATA,
        describe(),
        DataFacts("blobs", "test", images, 0, "sha256:cd"),
        labels_digest(pictures()),
        Distance(3, 15, 0.5, 1),
        2,
        {"rounds": 40},
    )


def digest(batch: int) -> str:
    return "sha256:" + f"{batch:02x}" * 32


def write(path: Path, logits: np.ndarray) -> Path:
    with writing(path, len(logits)) as writer:
        for number, start in enumerate(range(0, len(logits), BATCH)):
            writer.keep(logits[start : start + BATCH], digest(number))
        writer.conclude(about(len(logits)))
    return path


def read(path: Path) -> np.ndarray:
    with Baseline(path) as baseline:
        parts = []
        for number, start in enumerate(range(0, baseline.images, BATCH)):
            count = min(BATCH, baseline.images - start)
            parts.append(baseline.answers(np.zeros((count, 1, 1, 1), np.uint8), digest(number)))
        return np.concatenate(parts)


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(IMAGES, CLASSES)).astype(np.float32)


@pytest.fixture
def kept(tmp_path, logits) -> Path:
    return write(tmp_path / "old.npz", logits)


def test_what_was_kept_is_read_back_to_the_last_bit(kept, logits):
    logits_of_numpy = np.load(kept, allow_pickle=False)["logits"]
    assert (logits_of_numpy == logits).all()
    assert (read(kept) == logits).all()
    with Baseline(kept) as baseline:
        assert baseline.about == about()
        assert baseline.measured().rms == pytest.approx((0.5 / 15) ** 0.5)
    assert digest_of_artifact(kept) == "sha256:ab"


def test_nan_and_infinity_are_kept_too(tmp_path, logits):
    logits[3, 1], logits[40, 0] = np.nan, -np.inf
    assert np.array_equal(read(write(tmp_path / "odd.npz", logits)), logits, equal_nan=True)


def test_any_number_of_images_takes_the_memory_of_one_batch(tmp_path):
    batch, path, count = np.zeros((BATCH, 1000), np.float32), tmp_path / "large.npz", 400
    wide = replace(about(count * BATCH), metadata=replace(METADATA, labels=tuple(map(str, range(1000)))))
    tracemalloc.start()
    with writing(path, count * BATCH) as writer:
        for number in range(count):
            writer.keep(batch, digest(number % 256))
        writer.conclude(wide)
    with Baseline(path) as baseline:
        for number in range(count):
            baseline.answers(np.zeros((BATCH, 1, 1, 1), np.uint8), digest(number % 256))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 51e6
    assert peak < 3e6


def test_other_pictures_are_told_at_the_first_batch_that_differs(kept):
    with Baseline(kept) as baseline:
        baseline.answers(np.zeros((BATCH, 1, 1, 1), np.uint8), digest(0))
        with pytest.raises(DataError, match=r"between the 33\. and the 64"):
            baseline.answers(np.zeros((BATCH, 1, 1, 1), np.uint8), digest(7))


def test_other_labels_are_told_before_anything_is_decoded(kept):
    data = pictures()
    with Baseline(kept) as baseline:
        baseline.check(data)
        data.test.labels[5] += 1
        with pytest.raises(DataError, match="its classes or labels differ"):
            baseline.check(data)


def test_a_file_cut_off_anywhere_is_one_line_of_cause(kept, tmp_path):
    whole = kept.read_bytes()
    cut = tmp_path / "cut.npz"
    for length in [0, 1, 30, 200, 1000, len(whole) // 2, len(whole) - 30, len(whole) - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(EngineFormatError, match="no baseline, or a damaged one"):
            read(cut)


def test_a_byte_changed_anywhere_is_noticed_or_harmless(kept, logits, tmp_path):
    whole = kept.read_bytes()
    rng = np.random.default_rng(1)
    damaged = tmp_path / "damaged.npz"
    noticed = 0
    for place in rng.integers(0, len(whole), 150):
        damaged.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        try:
            assert (read(damaged) == logits).all()
        except EngineFormatError:
            noticed += 1
    assert noticed > 100


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


def array(value: np.ndarray, **options: bool) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, value, **options)
    return file.getvalue()


def header(shape: tuple[int, ...], kind: str) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
    return file.getvalue()


def facts(**changes: object) -> bytes:
    text = json.dumps({**about().to_json(), **changes}).encode()
    return array(np.frombuffer(text, np.uint8))


DIGESTS = array(np.zeros((3, 32), np.uint8))
LOGITS = array(np.zeros((IMAGES, CLASSES), np.float32))


@pytest.mark.parametrize(
    ("members", "cause"),
    [
        ({"x": LOGITS}, "no baseline"),
        ({"about": facts(format="other"), "digests": DIGESTS, "logits": LOGITS}, "no baseline"),
        ({"about": facts(version=2), "digests": DIGESTS, "logits": LOGITS}, "format version 2"),
        ({"about": facts(row=None), "digests": DIGESTS, "logits": LOGITS}, "damaged"),
        ({"about": facts(metadata={}), "digests": DIGESTS, "logits": LOGITS}, "damaged"),
        ({"about": facts(data=[]), "digests": DIGESTS, "logits": LOGITS}, "damaged"),
        ({"about": header((1 << 50,), "|u1"), "digests": DIGESTS, "logits": LOGITS}, "damaged"),
        ({"about": array(np.array([None]), allow_pickle=True), "digests": DIGESTS, "logits": LOGITS}, "damaged"),
        ({"about": facts(), "digests": array(np.zeros((2, 32), np.uint8)), "logits": LOGITS}, "damaged"),
        ({"about": facts(), "digests": DIGESTS, "logits": header((IMAGES, CLASSES), "<f4")}, "its logits are"),
        ({"about": facts(), "digests": DIGESTS, "logits": array(np.zeros((IMAGES, CLASSES)))}, "float64"),
        ({"about": facts(), "digests": DIGESTS, "logits": array(np.zeros((9, CLASSES), np.float32))}, r"\[9, 5\]"),
    ],
)  # fmt: skip
def test_what_is_no_baseline_is_refused(tmp_path, members, cause):
    with pytest.raises(EngineFormatError, match=cause) as caught:
        Baseline(archive(tmp_path / "x.npz", **members))
    assert "--baseline" in caught.value.remedy or "upgrade" in caught.value.remedy


def test_nothing_is_left_of_one_that_was_not_finished(tmp_path, logits):
    with pytest.raises(KeyboardInterrupt), writing(tmp_path / "half.npz", IMAGES) as writer:
        writer.keep(logits[:BATCH], digest(0))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_compressed_or_encrypted_archive_is_refused_before_it_is_unfolded(kept, tmp_path):
    with zipfile.ZipFile(kept) as file, zipfile.ZipFile(tmp_path / "small.npz", "w", zipfile.ZIP_DEFLATED) as small:
        for name in file.namelist():
            small.writestr(name, file.read(name))
    locked = bytearray(kept.read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = locked.find(mark)
        while place >= 0:
            locked[place + flags] |= 1
            place = locked.find(mark, place + 1)
    (tmp_path / "locked.npz").write_bytes(locked)
    for name, cause in (("small", "it is compressed"), ("locked", "encrypted")):
        with pytest.raises(EngineFormatError, match=cause):
            read(tmp_path / f"{name}.npz")
