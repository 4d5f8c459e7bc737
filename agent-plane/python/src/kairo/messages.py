"""Events and chunks as types, and reading the kernel's messages.

Unknown keys of what the kernel sends are ignored, so that the protocol can grow; a key that is
there and of the wrong type is refused (:class:`kairo.WrongShape`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

from . import frames, msgpack
from .errors import WrongShape
from .sealed import Sealed

#: A request's id. This package uses numbers.
Id = Union[int, str]


@dataclass(frozen=True)
class Event:
    """A fact that was published: CloudEvents 1.0 plus what the bus adds."""

    #: Unique on this machine.
    id: str
    #: The canonical topic (``type`` on the wire).
    topic: str
    #: Who published it.
    source: str
    #: ``1.0``.
    specversion: str
    #: When, RFC 3339 in UTC.
    time: str
    #: The facts.
    data: Any
    #: Grows with every event.
    seq: int
    #: Other topics under which subscribers see it.
    aliases: List[str] = field(default_factory=list)
    #: What it belongs to.
    correlation_id: Optional[str] = None
    #: The event or request that led to it.
    causation_id: Optional[str] = None
    #: W3C trace context.
    traceparent: Optional[str] = None
    #: The stream it belongs to.
    stream: Optional[str] = None
    #: Its place in that stream; 1 is the first.
    stream_version: Optional[int] = None
    #: True when it is shown again and not to be acted on.
    replay: bool = False
    #: The subscription it is delivered to.
    subscription: Optional[str] = None


@dataclass(frozen=True)
class Gap:
    """Bytes of a stream that were lost: ``start`` up to, not with, ``end``."""

    #: Offset of the first byte lost (``from`` on the wire).
    start: int
    #: Offset of the first byte not lost (``to`` on the wire).
    end: int


@dataclass(frozen=True)
class Chunk:
    """A piece of a stream."""

    #: The subscription it is delivered to.
    subscription: str
    #: The stream's name.
    stream: str
    #: Grows by one with every chunk made; a lost chunk leaves a hole.
    seq: int
    #: Where ``data`` begins in the stream, bytes, counting what was lost.
    offset: int
    #: The bytes.
    data: bytes
    #: True on the last chunk.
    end: bool = False
    #: What was lost just before this chunk.
    gap: Optional[Gap] = None
    #: Bytes of the stream in the descriptor that came with it; ``data`` is empty then.
    attached_bytes: Optional[int] = None
    #: Why the stream ended before its end, as ``error_info``; only with ``end``.
    error: Optional[Dict[str, Any]] = None
    #: The payload that ``attached_bytes`` announces.
    attached: Optional[Sealed] = None

    def content(self) -> bytes:
        """The bytes of the stream that it carries, wherever they are."""
        return self.data if self.attached is None else self.attached.read()

    def sample(self) -> Any:
        """``data`` as the one MsgPack value that streams of samples carry.

        Raises :class:`kairo.Malformed`.
        """
        return msgpack.unpack(self.data)


Item = Union[Event, Chunk]

_MISSING: Any = object()


class _Map:
    """Typed access to a message's keys."""

    def __init__(self, what: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise WrongShape(f"a {what} is a map, and this is {type(value).__name__}")
        self.what = what
        self.entries: Dict[Any, Any] = value

    def get(self, key: str, kind: type, default: Any = _MISSING) -> Any:
        value = self.entries.get(key)
        if value is None and default is not _MISSING:
            return default
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            found = "absent" if key not in self.entries else type(value).__name__
            raise WrongShape(f"`{key}` of a {self.what} is {found}, expected {kind.__name__}")
        return value


def decode(payload: bytes, limits: frames.Limits) -> Any:
    """The value of a payload. Raises :class:`kairo.Malformed`."""
    return msgpack.unpack(payload, depth=limits.depth, values=limits.values)


def event(value: Any) -> Event:
    """The event that a payload's value is. Raises :class:`kairo.WrongShape`."""
    entries = _Map("event", value)
    aliases = entries.get("aliases", list, None)
    if aliases is not None and not all(isinstance(alias, str) for alias in aliases):
        raise WrongShape("`aliases` of an event are texts")
    return Event(
        id=entries.get("id", str),
        topic=entries.get("type", str),
        source=entries.get("source", str),
        specversion=entries.get("specversion", str),
        time=entries.get("time", str),
        data=entries.entries.get("data"),
        seq=entries.get("seq", int),
        aliases=aliases or [],
        correlation_id=entries.get("correlation_id", str, None),
        causation_id=entries.get("causation_id", str, None),
        traceparent=entries.get("traceparent", str, None),
        stream=entries.get("stream", str, None),
        stream_version=entries.get("stream_version", int, None),
        replay=entries.get("replay", bool, False),
        subscription=entries.get("subscription", str, None),
    )


def chunk(value: Any) -> Chunk:
    """The chunk that a payload's value is. Raises :class:`kairo.WrongShape`."""
    entries = _Map("stream chunk", value)
    gap = entries.get("gap", dict, None)
    lost = None
    if gap is not None:
        inner = _Map("gap", gap)
        lost = Gap(inner.get("from", int), inner.get("to", int))
    return Chunk(
        subscription=entries.get("subscription", str),
        stream=entries.get("stream", str),
        seq=entries.get("seq", int),
        offset=entries.get("offset", int),
        data=entries.get("data", bytes),
        end=entries.get("end", bool, False),
        gap=lost,
        attached_bytes=entries.get("attached_bytes", int, None),
        error=entries.get("error", dict, None),
    )


@dataclass(frozen=True)
class Asked:
    """A request of somebody else's that this connection is to serve."""

    #: To answer with; None in a notification.
    id: Optional[Id]
    #: ``namespace.method``.
    method: str
    params: Dict[str, Any]
    #: What came beside them; ``caller`` is the kernel's word.
    meta: Dict[str, Any]
    #: The terms of the stream that it opens.
    stream: Optional[Dict[str, Any]] = None


def asked(value: Any) -> Asked:
    """The request that a payload's value is. Raises :class:`kairo.WrongShape`."""
    entries = _Map("request", value)
    found = entries.entries.get("id")
    meta = entries.get("meta", dict, {})
    stream = _Map("request", meta).get("stream", dict, None)
    if stream is not None:
        terms = _Map("stream", stream)
        for key, kind in (("subscription", str), ("credit_bytes", int), ("descriptors", bool)):
            terms.get(key, kind)
    if found is not None and (isinstance(found, bool) or not isinstance(found, (int, str))):
        raise WrongShape("`id` of a request is a whole number or a text")
    method, params = entries.get("method", str), entries.get("params", dict, {})
    return Asked(found, method, params, meta, stream)


@dataclass(frozen=True)
class Response:
    """An answer, as it came."""

    id: Id
    result: Any
    error: Optional[str]
    error_info: Any


def response(value: Any) -> Response:
    """The response that a payload's value is. Raises :class:`kairo.WrongShape`."""
    entries = _Map("response", value)
    found = entries.entries.get("id")
    if isinstance(found, bool) or not isinstance(found, (int, str)):
        raise WrongShape("`id` of a response is a whole number or a text")
    text = entries.get("error", str, None)
    return Response(found, entries.entries.get("result"), text, entries.entries.get("error_info"))


def request(
    method: str,
    params: Optional[Mapping[str, Any]],
    meta: Optional[Mapping[str, Any]],
    number: Optional[Id],
    limits: frames.Limits,
) -> bytes:
    """The frame of a request; without a number it is a notification.

    Raises :class:`kairo.Unencodable` or :class:`kairo.MessageTooLong`.
    """
    envelope: Dict[str, Any] = {}
    if number is not None:
        envelope["id"] = number
    envelope["method"] = method
    if params:
        envelope["params"] = dict(params)
    if meta:
        envelope["meta"] = {key: value for key, value in meta.items() if value is not None}
    return frames.encode(frames.REQUEST, msgpack.pack(envelope), limits)


def encode(kind: int, message: Mapping[str, Any], limits: frames.Limits) -> bytes:
    """The frame of a message. Raises as :func:`request`."""
    return frames.encode(kind, msgpack.pack(dict(message)), limits)


def incoming(kind: int, payload: bytes, limits: frames.Limits) -> Tuple[str, Any]:
    """A frame's message: ``("response" | "event" | "chunk" | "request", message)``.

    Raises :class:`kairo.ProtocolError`.
    """
    if kind == frames.RESPONSE:
        return "response", response(decode(payload, limits))
    if kind == frames.EVENT:
        return "event", event(decode(payload, limits))
    if kind == frames.STREAM_CHUNK:
        return "chunk", chunk(decode(payload, limits))
    return "request", asked(decode(payload, limits))
