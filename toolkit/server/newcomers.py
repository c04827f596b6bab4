"""How a port is closed without resetting anybody: first nobody new may begin, then who had begun comes in."""

import ctypes
import socket
import sys

_ATTACH_FILTER = 26
"""``SO_ATTACH_FILTER`` of Linux, which Python has no name for."""

_DROP_FIRST_SEGMENTS = (
    (0x30, 0, 0, 13),  # load the byte of the TCP header that holds the flags
    (0x54, 0, 0, 0x12),  # leave SYN and ACK of it
    (0x15, 0, 1, 0x02),  # SYN alone, which opens a connection?
    (0x06, 0, 0, 0),  # then nothing of the segment is taken,
    (0x06, 0, 0, 0x7FFFFFFF),  # else all of it
)
"""A classic BPF program: operation, jump if true, jump if false, operand. A client whose first segment is dropped
sends it again a second later, and is refused then, for the port is closed: nothing of it was lost."""


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


def drop_newcomers(listener: socket.socket) -> bool:
    """Have the system ignore whoever wants to connect from now on; who has begun to, is let in.

    A listening socket that is closed resets every connection that the system has made and its owner hasn't taken
    yet, with what was sent over it. After this there are no more of them once the last one is taken.

    Args:
        listener: a listening TCP socket.

    Returns:
        Whether the system can do that; Linux can.
    """
    if sys.platform != "linux":
        return False
    instructions = (_Instruction * len(_DROP_FIRST_SEGMENTS))(*(_Instruction(*one) for one in _DROP_FIRST_SEGMENTS))
    program = _Program(len(instructions), instructions)
    try:
        listener.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, bytes(program))
    except OSError:  # a sandbox that allows no filters
        return False
    return True
