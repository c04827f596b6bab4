"""Errors carry a cause, a remedy and an exit code, and survive a trip between processes."""

import inspect
import pickle

import pytest

from engines import errors
from engines.errors import CheckFailedError, MissingLibraryError, ToolkitError
from engines.optional import require

TREE = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, ToolkitError)]


@pytest.mark.parametrize("kind", TREE)
def test_every_error_survives_pickling_with_its_class_cause_and_remedy(kind: type[ToolkitError]) -> None:
    error = (
        kind("Exporting", "torch", "export") if kind is MissingLibraryError else kind("a  cause\nof two lines", "do")
    )
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (type(copy), copy.cause, copy.remedy) == (kind, error.cause, error.remedy)
    assert "\n" not in copy.cause


@pytest.mark.parametrize("kind", TREE)
def test_a_failed_check_exits_with_1_and_everything_else_with_2(kind: type[ToolkitError]) -> None:
    assert kind.exit_code == (1 if issubclass(kind, CheckFailedError) else 2)


def test_the_tree_drawn_in_the_docstring_names_every_class() -> None:
    assert errors.__doc__ is not None
    assert [kind.__name__ for kind in TREE if kind.__name__ not in errors.__doc__] == []


def test_a_missing_package_is_named_with_the_feature_and_the_pip_line() -> None:
    with pytest.raises(MissingLibraryError) as caught:
        require("no_such_library.part", "Flying", "wings")
    assert caught.value.cause == "Flying needs the package 'no_such_library.part', which is not installed"
    assert caught.value.remedy == "pip install 'onnx-tensorrt-toolkit[wings]'"
