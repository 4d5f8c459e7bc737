"""MsgPack as far as the protocol has it, with its limits.

Decoding takes one pass. Depth, number of values, and every claimed length against the bytes that
are really there are checked before anything is built from them, so no input makes this side
allocate more than a small multiple of its own length, recurse beyond :data:`MAX_DEPTH`, or raise
anything but :class:`kairo.Malformed`. Extension types are not part of the protocol.

Encoding always takes the shortest form, as the kernel does: equal values are equal bytes.
"""

from __future__ import annotations

import struct
from typing import Any, Dict, List

from .errors import Malformed, Unencodable

#: Deepest nesting of containers.
MAX_DEPTH = 64
#: Most values in a message, keys included.
MAX_VALUES = 65_536

_F32 = struct.Struct(">f")
_F64 = struct.Struct(">d")
_U16 = struct.Struct(">BH")
_U32 = struct.Struct(">BI")
_U64 = struct.Struct(">BQ")
_TAGGED_F64 = struct.Struct(">Bd")

# Marker: bytes of the length that follows.
_BINARIES = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_TEXTS = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_ARRAYS = {0xDC: 2, 0xDD: 4}
_MAPS = {0xDE: 2, 0xDF: 4}
# Marker: bytes of the number, signed or not.
_NUMBERS = {
    0xCC: (1, False), 0xCD: (2, False), 0xCE: (4, False), 0xCF: (8, False),
    0xD0: (1, True), 0xD1: (2, True), 0xD2: (4, True), 0xD3: (8, True),
}


class _Reader:
    """One pass over one payload."""

    __slots__ = ("data", "position", "depth", "values", "seen")

    def __init__(self, data: bytes, depth: int, values: int) -> None:
        self.data = data
        self.position = 0
        self.depth = min(depth, MAX_DEPTH)
        self.values = values
        self.seen = 0

    def length(self, at: int, width: int) -> int:
        """The length of ``width`` bytes after the marker at ``at``."""
        end = at + 1 + width
        if end > len(self.data):
            raise _truncated(at)
        self.position = end
        return int.from_bytes(self.data[at + 1:end], "big")

    def body(self, at: int, length: int) -> bytes:
        """The next ``length`` bytes."""
        left = len(self.data) - self.position
        if length > left:
            raise _claims(at, length, left)
        start = self.position
        self.position += length
        return self.data[start:self.position]

    def value(self, level: int) -> Any:
        """The value at the position, inside ``level`` containers."""
        self.seen += 1
        if self.seen > self.values:
            raise Malformed("values", self.position, f"more than {self.values} values")
        at = self.position
        if at >= len(self.data):
            raise _truncated(at)
        marker = self.data[at]
        self.position = at + 1
        if marker <= 0x7F:
            return marker
        if marker >= 0xE0:
            return marker - 0x100
        if marker <= 0x8F:
            return self.map(at, marker & 0x0F, level)
        if marker <= 0x9F:
            return self.array(at, marker & 0x0F, level)
        if marker <= 0xBF:
            return self.text(at, marker & 0x1F)
        return self.marked(at, marker, level)

    def marked(self, at: int, marker: int, level: int) -> Any:
        """A value whose marker is a byte of its own."""
        if marker == 0xC0:
            return None
        if marker in (0xC2, 0xC3):
            return marker == 0xC3
        if marker in _NUMBERS:
            width, signed = _NUMBERS[marker]
            return int.from_bytes(self.body(at, width), "big", signed=signed)
        if marker == 0xCB:
            return _F64.unpack(self.body(at, 8))[0]
        if marker == 0xCA:
            return _F32.unpack(self.body(at, 4))[0]
        if marker in _TEXTS:
            return self.text(at, self.length(at, _TEXTS[marker]))
        if marker in _BINARIES:
            return bytes(self.body(at, self.length(at, _BINARIES[marker])))
        if marker in _ARRAYS:
            return self.array(at, self.length(at, _ARRAYS[marker]), level)
        if marker in _MAPS:
            return self.map(at, self.length(at, _MAPS[marker]), level)
        text = f"byte {marker:#04x} at {at} begins no value of this protocol"
        raise Malformed("marker", at, text)

    def text(self, at: int, length: int) -> str:
        try:
            return self.body(at, length).decode("utf-8")
        except UnicodeDecodeError:
            raise Malformed("utf8", at, f"the text at byte {at} is not UTF-8") from None

    def open(self, at: int, claimed: int, level: int) -> None:
        """Checks a container of ``claimed`` values: each takes a byte at least."""
        left = len(self.data) - self.position
        if claimed > left:
            raise _claims(at, claimed, left)
        if level == self.depth:
            text = f"nested deeper than {self.depth} levels at byte {at}"
            raise Malformed("depth", at, text)

    def array(self, at: int, count: int, level: int) -> List[Any]:
        self.open(at, count, level)
        return [self.value(level + 1) for _ in range(count)]

    def map(self, at: int, count: int, level: int) -> Dict[Any, Any]:
        self.open(at, 2 * count, level)
        entries: Dict[Any, Any] = {}
        for _ in range(count):
            key_at = self.position
            key = self.value(level + 1)
            value = self.value(level + 1)
            try:
                entries[key] = value
            except TypeError:
                text = f"the key at byte {key_at} is a container"
                raise Malformed("key", key_at, text) from None
        return entries


def _truncated(at: int) -> Malformed:
    return Malformed("truncated", at, f"the payload ends inside a value that begins at byte {at}")


def _claims(at: int, claimed: int, left: int) -> Malformed:
    text = f"a length at byte {at} claims {claimed} elements, and {left} bytes are left"
    return Malformed("length", at, text)


def unpack(data: bytes, *, depth: int = MAX_DEPTH, values: int = MAX_VALUES) -> Any:
    """The one value that ``data`` is.

    Maps become dictionaries (of a key given twice the last counts), binary becomes ``bytes``.
    Raises :class:`kairo.Malformed`.
    """
    reader = _Reader(bytes(data), depth, values)
    value = reader.value(0)
    count = len(data) - reader.position
    if count:
        raise Malformed("trailing", reader.position, f"{count} bytes follow the message")
    return value


class _Writer:
    """Appends values to one buffer, within the limits that the kernel keeps for requests."""

    __slots__ = ("out", "seen")

    def __init__(self) -> None:
        self.out = bytearray()
        self.seen = 0

    def value(self, value: Any, level: int) -> None:
        self.seen += 1
        if self.seen > MAX_VALUES:
            raise Unencodable(f"more than {MAX_VALUES} values in one message")
        if value is None:
            self.out.append(0xC0)
        elif value is True:
            self.out.append(0xC3)
        elif value is False:
            self.out.append(0xC2)
        elif isinstance(value, int):
            self.integer(value)
        elif isinstance(value, float):
            self.out += _TAGGED_F64.pack(0xCB, value)
        elif isinstance(value, str):
            self.text(value)
        elif isinstance(value, (bytes, bytearray, memoryview)):
            raw = bytes(value)
            self.head(len(raw), (), ((0xC4, 1), (0xC5, 2), (0xC6, 4)))
            self.out += raw
        elif isinstance(value, (list, tuple, dict)):
            self.container(value, level)
        else:
            text = f"{type(value).__name__} has no form in the protocol: {value!r:.80}"
            raise Unencodable(text)

    def integer(self, value: int) -> None:
        out = self.out
        if 0 <= value < 0x80 or -0x20 <= value < 0:
            out.append(value & 0xFF)
        elif 0 <= value < 0x100:
            out += bytes((0xCC, value))
        elif -0x80 <= value < 0:
            out += bytes((0xD0, value & 0xFF))
        elif 0 <= value < 0x1_0000 or -0x8000 <= value < 0:
            out += _U16.pack(0xCD if value > 0 else 0xD1, value & 0xFFFF)
        elif 0 <= value < 0x1_0000_0000 or -0x8000_0000 <= value < 0:
            out += _U32.pack(0xCE if value > 0 else 0xD2, value & 0xFFFF_FFFF)
        elif -(1 << 63) <= value < 1 << 64:
            out += _U64.pack(0xCF if value > 0 else 0xD3, value & 0xFFFF_FFFF_FFFF_FFFF)
        else:
            raise Unencodable("a whole number outside -2^63 to 2^64-1")

    def text(self, value: str) -> None:
        try:
            raw = value.encode("utf-8")
        except UnicodeEncodeError:
            raise Unencodable("a text with half of a surrogate pair is not UTF-8") from None
        self.head(len(raw), (0xA0, 0x20), ((0xD9, 1), (0xDA, 2), (0xDB, 4)))
        self.out += raw

    def head(self, length: int, short: Any, forms: Any) -> None:
        """The shortest head for ``length``: ``short`` is a marker and how many it can hold."""
        if short and length < short[1]:
            self.out.append(short[0] | length)
            return
        for marker, width in forms:
            if length < 1 << (8 * width):
                self.out.append(marker)
                self.out += length.to_bytes(width, "big")
                return
        raise Unencodable(f"a length of {length} is beyond what MsgPack can say")

    def container(self, value: Any, level: int) -> None:
        if level == MAX_DEPTH:
            raise Unencodable(f"nested deeper than {MAX_DEPTH} levels, or within itself")
        if isinstance(value, dict):
            self.head(len(value), (0x80, 0x10), ((0xDE, 2), (0xDF, 4)))
            for key, item in value.items():
                self.value(key, level + 1)
                self.value(item, level + 1)
        else:
            self.head(len(value), (0x90, 0x10), ((0xDC, 2), (0xDD, 4)))
            for item in value:
                self.value(item, level + 1)


def pack(value: Any) -> bytes:
    """The bytes of ``value``: None, bool, int, float, str, bytes, list, tuple or dict.

    Raises :class:`kairo.Unencodable`, and allocates no more than the result.
    """
    writer = _Writer()
    writer.value(value, 0)
    return bytes(writer.out)
