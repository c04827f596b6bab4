"""Where the raw bytes of a graph's constants lie in its file: a message that is asked for them gives a copy."""

import mmap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from engines.sessions.ort_fp8 import fields

Bytes = bytes | mmap.mmap
Place = tuple[int, int]
"""Where something begins and ends."""

Places = Mapping[str, Place]
"""By the name of an initializer where its raw bytes begin and end."""

_GRAPH, _INITIALIZER, _NAME, _RAW_DATA = 7, 5, 8, 9
"""Numbers of fields: of the model, the graph, and the tensor."""


def raw_places(data: Bytes) -> Places:
    """Where the raw bytes of each initializer of a serialised graph lie.

    Initializers without raw bytes, or whose name isn't the only one of its kind, aren't told; none is where the bytes
    can't be walked over: what is wrong with them is for others to say.
    """
    found, names = {}, Counter[str]()
    try:
        for graph in _inside(data, (0, len(data)), _GRAPH):
            for tensor in _inside(data, graph, _INITIALIZER):
                name = _name_of(data, tensor)
                names[name] += 1
                found[name] = _last(data, tensor, _RAW_DATA)
    except (ValueError, IndexError):  # not protobuf, or a name that is no text
        return {}
    return {name: (start, end) for name, (start, end) in found.items() if names[name] == 1 and end > start}


def without_raw(data: Bytes, places: Iterable[Place]) -> bytes:
    """A serialised graph without the raw bytes of some initializers; all else in it is the same.

    Args:
        data: the graph.
        places: what :func:`raw_places` says of those initializers.

    Raises:
        ValueError: a length is written in more bytes than it needs, as nothing that writes graphs does.
    """
    left_out, graphs = frozenset(places), []
    for graph in _inside(data, (0, len(data)), _GRAPH):
        tensors = []
        for tensor in _inside(data, graph, _INITIALIZER):
            raw = [(place, b"") for place in _inside(data, tensor, _RAW_DATA) if place in left_out]
            if raw:
                tensors.append((tensor, _field(_INITIALIZER, _replaced(data, tensor, _RAW_DATA, raw))))
        graphs.append((graph, _field(_GRAPH, _replaced(data, graph, _INITIALIZER, tensors))))
    return _replaced(data, (0, len(data)), _GRAPH, graphs)


def with_raw(data: bytes, contents: Mapping[str, memoryview]) -> list[bytes | memoryview]:
    """A serialised graph with raw bytes in its initializers, in parts to be written one after the other.

    Args:
        data: the graph; the named initializers have raw bytes, and none of them.
        contents: by name, what takes their place.

    Raises:
        ValueError: an initializer isn't there, or isn't empty.
    """
    places = {}
    for graph in _inside(data, (0, len(data)), _GRAPH):
        for tensor in _inside(data, graph, _INITIALIZER):
            name = _name_of(data, tensor)
            if name in contents:
                ((start, end),) = _inside(data, tensor, _RAW_DATA)
                if end > start:
                    raise ValueError(f"'{name}' isn't empty")
                places[name] = tensor, start
    if missing := set(contents) - set(places):
        raise ValueError(f"'{min(missing)}' isn't there")
    ((graph_start, graph_end),) = _inside(data, (0, len(data)), _GRAPH)
    parts, at, grown = list[bytes | memoryview](), graph_start, 0
    for name, (tensor, start) in places.items():
        content, empty = contents[name], _head(_RAW_DATA, 0)
        raw, old = _head(_RAW_DATA, content.nbytes), _head(_INITIALIZER, tensor[1] - tensor[0])
        size = tensor[1] - tensor[0] - len(empty) + len(raw) + content.nbytes
        head = _head(_INITIALIZER, size)
        parts += [data[at : tensor[0] - len(old)], head, data[tensor[0] : start - len(empty)], raw, content]
        at, grown = start, grown + len(head) - len(old) + size - (tensor[1] - tensor[0])
    before = graph_start - len(_head(_GRAPH, graph_end - graph_start))
    return [data[:before], _head(_GRAPH, graph_end - graph_start + grown), *parts, data[at:]]


def _inside(data: Bytes, message: Place, number: int) -> Iterator[Place]:
    """Where the fields of one number lie in a message."""
    return ((start, end) for field, start, end in fields(data, *message) if field == number and end is not None)


def _last(data: Bytes, message: Place, number: int) -> Place:
    """Where the field of one number lies: as protobuf has it, the last one of several counts."""
    return ([(0, 0), *_inside(data, message, number)])[-1]


def _name_of(data: Bytes, tensor: Place) -> str:
    start, end = _last(data, tensor, _NAME)
    return bytes(data[start:end]).decode()


def _replaced(data: Bytes, message: Place, number: int, others: Iterable[tuple[Place, bytes]]) -> bytes:
    """A message with other bytes in place of some of its fields of one number, their heads included."""
    parts, at = [], message[0]
    for (start, end), new in others:
        head = _head(number, end - start)
        if bytes(data[start - len(head) : start]) != head:
            raise ValueError("a field's head isn't the shortest")
        parts += [data[at : start - len(head)], new]
        at = end
    return b"".join([*parts, data[at : message[1]]])


def _field(number: int, content: bytes) -> bytes:
    return _head(number, len(content)) + content


def _head(number: int, size: int) -> bytes:
    """What stands before the content of a field that has a length."""
    return _varint(number << 3 | 2) + _varint(size)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
