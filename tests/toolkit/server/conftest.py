"""A server that tests of the fronts share: nothing that they do changes it for the next one."""

from collections.abc import Iterator

import pytest

from tests.toolkit.server.fronts import Fronts, opened, serving


@pytest.fixture(scope="package")
def fronts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fronts]:
    """The models "tiny", a classifier with a float32 input, and "echo", behind both fronts."""
    with serving(opened(tmp_path_factory.mktemp("models"))) as fronts:
        yield fronts
