"""The likeliest classes in place of an output's values: the protocol's classification extension."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from engines.errors import InputError
from toolkit.server.protocol.limits import short
from toolkit.server.protocol.messages import Tensor, TooLargeError

MOST = 1 << 16
"""Texts in one answer: more take a tenth of a second to write, in which nobody else is answered."""


def classes(tensor: Tensor, count: int, labels: Sequence[str] = ()) -> Tensor:
    """The ``count`` largest values of each sample, as "value:index:label".

    Values are written as shortly as gives them back ("3.3"); Triton's have six digits behind the point, which is
    nothing of a probability of 1e-7.

    Args:
        tensor: values ``[N, ...]``, each sample's counted through as one row, or ``[C]`` of a single sample.
        count: classes a sample; at most as many as there are.
        labels: names by index; where one is missing the text is "value:index".

    Returns:
        A "BYTES" tensor of the same name, ``[N, count]`` or ``[count]``, the largest value first and equal ones in
        the order of their index; NaN comes last.

    Raises:
        InputError: the values can't be compared, or ``count`` isn't positive.
        TooLargeError: there are more than :data:`MOST`.
    """
    values = tensor.data
    if count < 1:
        raise InputError(f"{count} classes are asked for", "ask for at least one")
    if values.dtype.hasobject or values.dtype.kind == "b" or not values.ndim:
        raise InputError(
            f"output {short(tensor.name)} holds no scores of classes", "leave out the parameter classification"
        )
    samples = values.shape[:1] if values.ndim > 1 else (1,)
    length = prod(values.shape[1:] if values.ndim > 1 else values.shape)
    asked = samples[0] * min(count, length)
    if asked > MOST:
        raise TooLargeError(
            f"{asked} classes of output {short(tensor.name)} are asked for, of at most {MOST}",
            "ask for fewer classes, or for the values, as binary data",
        )
    rows = values.reshape(*samples, length)
    if rows.dtype.kind not in "iuf":
        rows = rows.astype(np.float32)  # BF16
    keys = np.where(np.isnan(rows), -np.inf, rows) if rows.dtype.kind == "f" else rows
    # Reversed twice: a stable sort upwards, read from its end, would put equal values in falling order of index.
    order = (rows.shape[1] - 1 - np.argsort(keys[:, ::-1], axis=1, kind="stable"))[:, ::-1][:, :count]
    texts = np.empty(order.shape, object)
    for place, index in np.ndenumerate(order):
        label = f":{labels[index]}" if index < len(labels) else ""
        texts[place] = f"{rows[place[0], index]!s}:{index}{label}".encode()
    data = texts if values.ndim > 1 else texts.reshape(-1)
    return replace(tensor, datatype="BYTES", data=data)
