"""Images that were calibrated on are known again, whatever batches they come in."""

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from calibration.provenance import (
    Provenance,
    data_digest,
    fingerprint,
    overlap_note,
    pack,
    record_of,
    unpack,
    unseen_note,
)
from calibration.table import CalibrationTable

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)


def table(images: np.ndarray, **facts: object) -> CalibrationTable:
    prints = [fingerprint(image) for image in images]
    return CalibrationTable({}, "mse", "sha256:0", images=len(images), facts=facts, seen=pack(prints))


def test_a_fingerprint_is_the_digest_of_the_pixels_however_they_lie_in_memory():
    expected = hashlib.sha256(IMAGES[0].tobytes()).hexdigest()
    assert fingerprint(IMAGES[0]) == expected
    flipped = IMAGES[0][::-1]
    assert fingerprint(flipped) == hashlib.sha256(flipped.tobytes()).hexdigest() != expected
    assert fingerprint(np.asfortranarray(IMAGES[0])) == expected


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=20))
def test_what_is_packed_is_found_again(digests):
    prints = [digest.hex() for digest in digests]
    assert unpack(pack(prints)) == frozenset(item[:16] for item in prints)


def test_damaged_text_holds_no_fingerprints():
    assert unpack("not base64!") == frozenset()
    assert unpack("") == frozenset()


def test_repeated_images_are_counted_and_changed_ones_are_not():
    known = Provenance.of(record_of(table(IMAGES[:4])))
    changed = IMAGES[:1].copy()
    changed[0, 0, 0, 0] ^= 1
    assert known.repeated(IMAGES) == 4
    assert known.repeated(changed) == 0
    assert Provenance.of({"seen": None}).repeated(IMAGES) == 0


def test_the_record_of_a_table_names_what_it_never_saw():
    known = Provenance.of(record_of(table(IMAGES, data="digits", unseen_classes=["3", "7"])))
    assert (known.data, known.images, known.method, known.unseen) == ("digits", 6, "mse", ("3", "7"))
    assert unseen_note(known.unseen) == "calibrated without any image of '3', '7'"
    assert "and 2 more" in str(unseen_note([str(number) for number in range(10)]))
    assert unseen_note(()) is None


def test_an_overlap_is_worth_a_line_and_none_is_not():
    assert overlap_note(0, 10) is None
    assert overlap_note(3, 10) == "3 of the 10 evaluated images were calibrated on: its accuracy may be flattered"


def test_the_digest_of_the_data_depends_on_images_and_order_only():
    prints = [fingerprint(image) for image in IMAGES]
    assert data_digest(prints) == data_digest(iter(prints))
    assert data_digest(prints) != data_digest(reversed(prints))
