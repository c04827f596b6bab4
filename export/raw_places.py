"""Where the raw bytes of a graph's constants lie in its file: a message that is asked for them gives a copy."""

import mmap
from collections import Counter
from collections.abc import Iterator, Mapping

from engines.sessions.ort_fp8 import fields

Places = Mapping[str, tuple[int, int]]
"""By the name of an initializer where its raw bytes begin and end."""

_GRAPH, _INITIALIZER, _NAME, _RAW_DATA = 7, 5, 8, 9
"""Numbers of fields: of the model, the graph, and the tensor."""


def raw_places(data: bytes | mmap.mmap) -> Places:
    """Where the raw bytes of each initializer of a serialised graph lie.

    Initializers without raw bytes, or whose name isn't the only one of its kind, aren't told; none is where the bytes
    can't be walked over: what is wrong with them is for others to say.
    """
    found, names = {}, Counter[str]()
    try:
        for graph in _inside(data, (0, len(data)), _GRAPH):
            for tensor in _inside(data, graph, _INITIALIZER):
                # As protobuf has it, the last one of several counts.
                start, end = ([(0, 0), *_inside(data, tensor, _NAME)])[-1]
                name = bytes(data[start:end]).decode()
                names[name] += 1
                found[name] = ([(0, 0), *_inside(data, tensor, _RAW_DATA)])[-1]
    except (ValueError, IndexError):  # not protobuf, or a name that is no text
        return {}
    return {name: (start, end) for name, (start, end) in found.items() if names[name] == 1 and end > start}


def _inside(data: bytes | mmap.mmap, message: tuple[int, int], number: int) -> Iterator[tuple[int, int]]:
    """Where the fields of one number lie in a message."""
    return ((start, end) for field, start, end in fields(data, *message) if field == number and end is not None)
