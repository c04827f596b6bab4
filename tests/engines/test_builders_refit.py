"""Stripped plans: which graph fills their weights in, and what is said when it doesn't.

TensorRT itself needs a GPU, so the library is played here; its names are checked against the real bindings in
``test_tensorrt_api.py``.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engines.builders.log import Log
from engines.builders.refit import (
    allow_host_code_datacentre,
    graph_for_refit,
    is_stripped,
    refit_datacentre,
    refit_if_stripped_datacentre,
)
from engines.errors import EngineMismatchError, RunError
from engines.files import digest_bytes
from engines.passport import Passport

COMMAND = "toolkit build-engine model.onnx --fp16 --weights-stripped"


def passport(data: bytes = b"the graph", **options: object) -> Passport:
    return Passport(
        "model.fp16.engine", "sha256:0", 1, "tensorrt", "fp16", "", COMMAND,
        sources={"typed_graph": digest_bytes(data)}, options=options,
    )  # fmt: skip


class Library:
    """What of TensorRT takes part in a refit."""

    def __init__(self, *, fills: bool = True, fits: bool = True, missing: tuple[str, ...] = ()) -> None:
        self.asked: list[str] = []
        self._fills, self._fits, self._missing = fills, fits, missing

        class ILogger:
            pass

        self.__name__, self.ILogger = f"played_trt_{id(self)}", ILogger

    def Refitter(self, engine: object, logger: object) -> Any:  # noqa: N802
        return SimpleNamespace(refit_cuda_engine=lambda: self._fits, get_missing_weights=lambda: list(self._missing))

    def OnnxParserRefitter(self, refitter: object, logger: object) -> Any:  # noqa: N802
        error = SimpleNamespace(desc=lambda: "Assertion failed: x: the graph has other weights.")

        def refit(path: str) -> bool:
            self.asked.append(path)
            return self._fills

        return SimpleNamespace(refit_from_file=refit, num_errors=1, get_error=lambda index: error)


def test_the_graph_is_found_by_its_digest_whatever_it_is_called(tmp_path: Path) -> None:
    engine = tmp_path / "model.fp16.engine"
    (tmp_path / "model.fp16.onnx").write_bytes(b"a later graph")
    (tmp_path / "renamed.onnx").write_bytes(b"the graph")
    assert graph_for_refit(engine, passport()) == tmp_path / "renamed.onnx"
    (tmp_path / "model.fp16.onnx").write_bytes(b"the graph")
    assert graph_for_refit(engine, passport()) == tmp_path / "model.fp16.onnx"


def test_without_the_graph_the_engine_is_refused_with_its_digest_and_the_rebuild_command(tmp_path: Path) -> None:
    (tmp_path / "model.fp16.onnx").write_bytes(b"a later graph")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(EngineMismatchError, match="holds no weights") as caught:
        graph_for_refit(tmp_path / "model.fp16.engine", passport())
    assert digest_bytes(b"the graph") in caught.value.remedy
    assert COMMAND in caught.value.remedy


def test_only_a_stripped_engine_is_filled(tmp_path: Path) -> None:
    (tmp_path / "model.fp16.onnx").write_bytes(b"the graph")
    library, plan = Library(), tmp_path / "model.fp16.engine"
    for other in (None, passport(), passport(weights_stripped=False)):
        assert not is_stripped(other)
        refit_if_stripped_datacentre(library, object(), plan, other, Log())  # type: ignore[arg-type]
    assert library.asked == []
    refit_if_stripped_datacentre(library, object(), plan, passport(weights_stripped=True), Log())  # type: ignore[arg-type]
    assert library.asked == [str(tmp_path / "model.fp16.onnx")]


@pytest.mark.parametrize(
    ("library", "reason"),
    [
        (Library(fits=False, missing=tuple("abcdef")), "the weights a, b, c, d and 2 more are missing"),
        (Library(fills=False), "the graph has other weights"),
        (Library(fits=False), "the graph has other weights"),
    ],
    ids=["missing", "unfilled", "other"],
)
def test_weights_that_do_not_fill_are_an_error_with_the_reason(library: Library, reason: str) -> None:
    with pytest.raises(RunError, match=reason) as caught:
        refit_datacentre(library, object(), Path("model.fp16.onnx"), object(), Log())  # type: ignore[arg-type]
    assert "without --weights-stripped" in caught.value.remedy


@pytest.mark.parametrize("options", [{}, {"version_compatible": True}])
def test_code_in_a_plan_may_run_only_where_the_plan_was_asked_to_have_it(options: dict[str, bool]) -> None:
    runtime = SimpleNamespace(engine_host_code_allowed=False)
    allow_host_code_datacentre(runtime, options)
    assert runtime.engine_host_code_allowed is bool(options)
