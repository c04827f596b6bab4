"""Collections that are interrupted and go on."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.collect import Statistics, TappedGraph, collect
from calibration.histogram import GrowingHistogram
from calibration.partial import Partial
from engines.errors import GraphError, InputError
from tests.tiny import tiny_graph

ROOT = Path(__file__).resolve().parents[2]
IMAGES = 24


def whole_numbers() -> onnx.ModelProto:
    """The tiny graph with small whole weights: on whole inputs every sum is exact in any order and batch."""
    model = tiny_graph()
    for tensor in model.graph.initializer:
        values = np.sign(onnx.numpy_helper.to_array(tensor))
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), tensor.name))
    return model


GRAPH = TappedGraph(whole_numbers(), threads=1)
PICTURES = np.random.default_rng(0).integers(-9, 10, (IMAGES, 3, 16, 16)).astype(np.float32)


class StoppedError(Exception):
    pass


def source(partial: Partial, size: int, stop: int | None = None, error: BaseException | None = None):
    """Batches of what the partial doesn't hold, with a note an image; ``error`` comes in place of image ``stop``."""
    start = partial.images
    assert partial.notes == [f"image {index}" for index in range(start)]
    while start < IMAGES:
        if stop is not None and start >= stop:
            raise error or StoppedError
        batch = PICTURES[start : min(start + size, IMAGES if stop is None else stop)]
        partial.notes += [f"image {start + index}" for index in range(len(batch))]
        start += len(batch)
        yield batch


def same(a: Statistics, b: Statistics) -> bool:
    return a.images == b.images and all(
        np.array_equal(one.counts, b.histograms[name].counts)
        and np.array_equal(one.edges, b.histograms[name].edges)
        and (one.minimum, one.maximum) == (b.histograms[name].minimum, b.histograms[name].maximum)
        for name, one in a.histograms.items()
    )


EXPECTED = collect(GRAPH, [PICTURES])


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(0, IMAGES), st.integers(1, 9)), max_size=4), st.integers(1, 9))
def test_interrupted_anywhere_and_cut_anyhow_the_result_is_the_same(tmp_path_factory, stops, last):
    path = tmp_path_factory.mktemp("partial") / "state"
    for wanted, size in stops:
        partial = Partial(path, "key")
        stop = max(wanted, partial.images)
        if stop < IMAGES:
            with pytest.raises(StoppedError):
                collect(GRAPH, source(partial, size, stop), partial=partial)
            assert Partial(path, "key").images == stop
    partial = Partial(path, "key")
    found = collect(GRAPH, source(partial, last), partial=partial)
    assert same(found, EXPECTED)
    assert partial.notes == [f"image {index}" for index in range(IMAGES)]


def test_ctrl_c_saves_what_was_counted_and_is_passed_on(tmp_path):
    path = tmp_path / "state"
    partial = Partial(path, "key")
    with pytest.raises(KeyboardInterrupt):
        collect(GRAPH, source(partial, 5, 10, KeyboardInterrupt()), partial=partial)
    again = Partial(path, "key")
    assert (again.images, again.notes) == (10, [f"image {index}" for index in range(10)])
    assert same(collect(GRAPH, source(again, 3), partial=again), EXPECTED)


def interrupted_again_and_again(path: Path) -> None:
    """Run by the test below in a process of its own: what runs tests may have plans of its own for SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main = threading.get_ident()

    def rounds_of(partial: Partial, until: int | None = None):
        """The same images again and again, the number of the round as their note; interrupted where it has no end."""
        number = partial.images // IMAGES
        if until is None:  # begun only here, so that the signal can't come outside of collect
            threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGINT)).start()
        while until is None or number < until:
            partial.notes.append(str(number))
            number += 1
            yield PICTURES

    for _ in range(5):
        partial = Partial(path, "key")
        before = partial.images
        with pytest.raises(KeyboardInterrupt):
            collect(GRAPH, rounds_of(partial), partial=partial)
        again = Partial(path, "key")
        assert again.images >= before
        assert again.images % IMAGES == 0
        assert again.notes == [str(index) for index in range(again.images // IMAGES)]
    last = Partial(path, "key")
    rounds = last.images // IMAGES + 1
    found = collect(GRAPH, rounds_of(last, rounds), partial=last)
    assert found.images == rounds * IMAGES
    for name, histogram in EXPECTED.histograms.items():
        np.testing.assert_array_equal(found.histograms[name].counts, histogram.counts * rounds)


def test_a_real_signal_while_it_counts_loses_no_image_and_counts_none_twice(tmp_path):
    code = (
        "import pathlib, sys; from tests.calibration.test_partial import interrupted_again_and_again; "
        "interrupted_again_and_again(pathlib.Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "state")], check=True, cwd=ROOT)


def test_it_is_saved_from_time_to_time(tmp_path):
    path = tmp_path / "state"
    partial = Partial(path, "key", interval=0)
    seen = []

    def watched():
        for batch in source(partial, 6):
            seen.append(Partial(path, "key").images)
            yield batch

    collect(GRAPH, watched(), partial=partial)
    assert seen == [0, 0, 6, 12]  # a batch is asked for while the last is counted
    assert Partial(path, "key").images == IMAGES
    later = Partial(tmp_path / "other", "key")
    collect(GRAPH, source(later, 6), partial=later)
    assert not later.path.exists()  # nothing interrupted it, and it took less than the interval


def test_a_collection_that_was_complete_needs_no_images_more(tmp_path):
    path = tmp_path / "state"
    partial = Partial(path, "key", interval=0)
    collect(GRAPH, source(partial, 6), partial=partial)
    again = Partial(path, "key")
    assert same(collect(GRAPH, source(again, 6), partial=again), EXPECTED)
    again.discard()
    assert (again.images, again.notes, path.exists()) == (0, [], False)
    again.discard()


def test_progress_begins_with_what_was_done(tmp_path):
    class Listener:
        steps: tuple[int, ...] = ()

        def begin(self, task, total=None, unit=""):
            pass

        def advance(self, steps=1, **facts):
            self.steps += (steps,)

        def end(self):
            pass

    partial = Partial(tmp_path / "state", "key")
    with pytest.raises(StoppedError):
        collect(GRAPH, source(partial, 8, 16), partial=partial)
    partial, listener = Partial(tmp_path / "state", "key"), Listener()
    collect(GRAPH, source(partial, 8), partial=partial, progress=listener, total=IMAGES)
    assert listener.steps == (16, 8)


@pytest.fixture
def saved(tmp_path):
    partial = Partial(tmp_path / "state", "key")
    with pytest.raises(StoppedError):
        collect(GRAPH, source(partial, 8, 16), partial=partial)
    return partial.path


def test_another_key_is_ignored(saved):
    assert Partial(saved, "key").images == 16
    other = Partial(saved, "other")
    assert (other.images, other.notes) == (0, [])
    assert same(collect(GRAPH, source(other, 5), partial=other), EXPECTED)


def test_a_damaged_or_foreign_file_is_ignored(saved):
    data = saved.read_bytes()
    cases = [b"", b"\n", b"PK\x03\x04 something else", b"{}", data + b"\0", bytes(len(data))]
    cases += [data[:size] for size in (1, 40, 71, 72, 200, len(data) // 2, len(data) - 1)]
    for place in (0, 80, 300, len(data) // 2, len(data) - 3):
        cases.append(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    for case in cases:
        saved.write_bytes(case)
        assert (Partial(saved, "key").images, Partial(saved, "key").notes) == (0, [])
    saved.write_bytes(data)
    assert Partial(saved, "key").images == 16


def test_a_file_of_another_version_is_ignored(saved):
    from engines.files import digest_bytes

    rest = saved.read_bytes().partition(b"\n")[2].replace(b'"version": 1', b'"version": 9')
    saved.write_bytes(digest_bytes(rest).encode() + b"\n" + rest)
    assert Partial(saved, "key").images == 0


def test_a_file_of_another_graph_is_refused(saved):
    with pytest.raises(InputError, match="other tensors"):
        collect(tiny_graph(lrn=True), [PICTURES[16:]], partial=Partial(saved, "key"))


def test_what_failed_to_count_is_not_saved(saved):
    data = saved.read_bytes()
    partial = Partial(saved, "key")
    broken = np.full((4, 3, 16, 16), np.nan, np.float32)
    with pytest.raises(GraphError, match="'input' becomes NaN"):
        collect(GRAPH, [broken], partial=partial)
    assert saved.read_bytes() == data
    with pytest.raises(StoppedError):  # what ended the source comes before what its last batch would have raised
        collect(GRAPH, raising_after(broken), partial=Partial(saved, "key"))
    assert saved.read_bytes() == data


def raising_after(batch):
    yield batch
    raise StoppedError


def test_a_place_that_cannot_be_written_does_not_hide_what_ended_the_collection(tmp_path):
    partial = Partial(tmp_path / "missing" / "state", "key")
    with pytest.raises(StoppedError):
        collect(GRAPH, source(partial, 8, 16), partial=partial)
    partial = Partial(tmp_path / "missing" / "state", "key", interval=0)
    with pytest.raises(InputError, match="can't write"):
        collect(GRAPH, source(partial, 8), partial=partial)
    with pytest.raises(InputError, match="folder"):
        Partial(tmp_path, "key")


def test_a_histogram_without_values_survives(tmp_path):
    partial = Partial(tmp_path / "state", "key")
    partial.save({"a": GrowingHistogram()}, 1, 0)
    found = Partial(tmp_path / "state", "key").histograms(["a"])["a"]
    with pytest.raises(ValueError, match="empty"):
        found.freeze()
