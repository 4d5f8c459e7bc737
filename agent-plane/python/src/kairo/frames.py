"""Frames: the 8-byte header, its limits, and a decoder that is fed whatever bytes arrived.

Nothing here does I/O. A header is looked at as soon as its bytes are there and refused before a
byte of the payload is kept; what is held is at most one frame and one read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Iterator, Tuple

from .errors import FrameError, MessageTooLong

MAGIC = b"KA"
VERSION = 1
HEADER_BYTES = 8

REQUEST = 1
RESPONSE = 2
EVENT = 3
STREAM_CHUNK = 4

#: Longest request or response with the feature ``large_frames``, bytes.
LARGE_CONTROL_BYTES = 8 * 1024 * 1024

_HEADER = struct.Struct(">2sBBI")


@dataclass(frozen=True)
class Limits:
    """What a peer may send. The defaults are the protocol's."""

    #: Longest payload of a request, a response or an event, bytes.
    control_bytes: int = 1024 * 1024
    #: Longest payload of a stream chunk, bytes.
    chunk_bytes: int = 16 * 1024 * 1024
    #: Deepest nesting of a payload.
    depth: int = 64
    #: Most values in a payload.
    values: int = 65_536

    def payload_bytes(self, kind: int) -> int:
        """The longest payload of a frame of that kind, bytes."""
        return self.chunk_bytes if kind == STREAM_CHUNK else self.control_bytes


def encode(kind: int, payload: bytes, limits: Limits) -> bytes:
    """The whole frame. Raises :class:`kairo.MessageTooLong`."""
    limit = limits.payload_bytes(kind)
    if len(payload) > limit:
        text = f"a message of {len(payload)} bytes exceeds the limit of {limit} bytes"
        raise MessageTooLong(text)
    return _HEADER.pack(MAGIC, VERSION, kind, len(payload)) + payload


class Decoder:
    """Turns a stream of bytes into frames."""

    def __init__(self, limits: Limits) -> None:
        #: What the peer may send, from the next header on.
        self.limits = limits
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Tuple[int, bytes]]:
        """Takes bytes that arrived and gives ``(kind, payload)`` of every frame now whole.

        Exhaust it before feeding more. Raises :class:`kairo.FrameError`; the decoder is of no use
        after one, because the stream cannot be resynchronised.
        """
        self._buffer += data
        start = 0
        try:
            while True:
                rest = len(self._buffer) - start
                if rest < HEADER_BYTES:
                    self._check_prefix(start)
                    return
                kind, length = self._header(start)
                end = start + HEADER_BYTES + length
                if end > len(self._buffer):
                    return
                payload = bytes(self._buffer[start + HEADER_BYTES:end])
                start = end
                yield kind, payload
        finally:
            del self._buffer[:start]

    def _check_prefix(self, start: int) -> None:
        """Refuses a wrong beginning before the header is whole."""
        found = bytes(self._buffer[start:start + 2])
        if not MAGIC.startswith(found):
            raise _magic(found)

    def _header(self, start: int) -> Tuple[int, int]:
        magic, version, kind, length = _HEADER.unpack_from(self._buffer, start)
        if magic != MAGIC:
            raise _magic(magic)
        if version != VERSION:
            text = f"frame version {version} is not spoken here, only {VERSION}"
            raise FrameError("version", text)
        if not REQUEST <= kind <= STREAM_CHUNK:
            raise FrameError("kind", f"frame type {kind} is unknown")
        limit = self.limits.payload_bytes(kind)
        if length > limit:
            text = f"a frame of {length} bytes exceeds the limit of {limit} bytes for its type"
            raise FrameError("too_long", text)
        return kind, length


def _magic(found: bytes) -> FrameError:
    text = f'the frame begins with {found!r}, expected "KA": is this a KairoOS IPC peer?'
    return FrameError("magic", text)
