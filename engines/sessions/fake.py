"""A session without an engine, for the tests of whatever embeds one.

It behaves like the real ones (feeds are checked, one owner at a time, outputs belong to the caller) and
answers with a fixed linear map of each sample, so that a test can tell whether every caller got the
answer to its own question. It can be slow and it can fail, on request.
"""

import time
from collections.abc import Container
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from engines.errors import RunError
from engines.metadata import ModelMetadata
from engines.sessions.base import SessionInfo
from engines.sessions.owned import OwnedSession
from engines.tensors import Array, Feeds, TensorSpec


class FakeSession(OwnedSession):
    """Answers ``logits = samples @ weights + bias`` with weights drawn from ``seed``.

    Args:
        shape: one sample's shape; taken from ``metadata`` when that is given.
        classes: the number of logits; taken from ``metadata`` when that is given.
        dtype: the input's type; taken from ``metadata`` when that is given.
        metadata: what a real model would carry; None makes it a foreign engine.
        seed: of the weights: equal seeds give equal answers.
        delay: seconds that every run takes.
        delay_per_sample: seconds that each sample of a batch adds.
        max_batch: the largest batch taken; None for no limit.
        fail_on: numbers of the runs that fail, counted from 0.
    """

    def __init__(
        self,
        shape: tuple[int, ...] = (3, 16, 16),
        classes: int = 5,
        *,
        dtype: str = "float32",
        metadata: ModelMetadata | None = None,
        seed: int = 0,
        delay: float = 0.0,
        delay_per_sample: float = 0.0,
        max_batch: int | None = None,
        fail_on: Container[int] = (),
    ) -> None:
        if metadata is not None:
            spec = metadata.preprocess
            chw, hwc = (spec.channels, spec.height, spec.width), (spec.height, spec.width, spec.channels)
            shape, dtype = (hwc, "uint8") if metadata.uint8_input else (chw, "float32")
            classes = len(metadata.labels)
        self._shape, self._classes, self._seed = shape, classes, seed
        self._delay, self._delay_per_sample, self._fail_on = delay, delay_per_sample, fail_on
        self.runs = 0
        self.batches: list[int] = []
        super().__init__(
            (TensorSpec("input", dtype, ("batch", *shape)),),
            (TensorSpec("logits", "float32", ("batch", classes)),),
            metadata,
            SessionInfo("fake", "cpu", "numpy", {"numpy": np.__version__}, max_batch),
        )

    @cached_property
    def weights(self) -> NDArray[np.float32]:
        """float32 [features, classes], unit variance of a sum over the features."""
        features = int(np.prod(self._shape))
        rng = np.random.default_rng(self._seed)
        weights: NDArray[np.float32] = rng.standard_normal((features, self._classes), np.float32)
        return weights / np.float32(max(features, 1) ** 0.5)

    def expected(self, samples: Array) -> NDArray[np.float32]:
        """The answer to a batch: float32 [batch, classes]. Each row depends on its own sample alone."""
        flat = samples.reshape(len(samples), -1).astype(np.float32)
        # One product a sample: a whole-batch product may round differently with the batch's size.
        return np.stack([row @ self.weights for row in flat])

    def _run(self, feeds: Feeds, batch: int) -> dict[str, Array]:
        number, self.runs = self.runs, self.runs + 1
        self.batches.append(batch)
        if seconds := self._delay + self._delay_per_sample * batch:
            time.sleep(seconds)
        if number in self._fail_on:
            raise RunError(f"the fake session was told to fail on run {number}", "change fail_on")
        return {"logits": self.expected(feeds["input"])}

    def _release(self) -> None:
        self.__dict__.pop("weights", None)
