"""Serving methods and streams over a blocking connection, one request at a time.

    with kairo.Service("eye", [kairo.service.method("watch", "Watches.", stream=True)]) as service:
        for asked in service:
            with service.open(asked) as stream:
                stream.send(b"picture")

A stream that waits for credit holds up whoever sends; requests that come meanwhile are kept.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from typing import Any, Dict, Iterator, List, Mapping, Optional, Union

from . import endpoint as endpoints, frames, messages
from .client import Client
from .errors import Backlog, DeadlineExceeded
from .messages import Asked
from .sealed import Sealed

#: What a chunk costs beside its data, and one with a descriptor in all, bytes of credit.
CHUNK_OVERHEAD_BYTES = 256
DESCRIPTOR_COST_BYTES = 64 * 1024
#: Requests, and ends of streams that were not opened yet, that are kept.
_KEPT = 4096


def method(
    name: str,
    summary: str,
    *,
    params: Optional[Mapping[str, Any]] = None,
    result: Optional[Mapping[str, Any]] = None,
    permission: str = "actuate",
    stream: bool = False,
) -> Dict[str, Any]:
    """A method as ``service.register`` takes it; schemas are ``{"type": "object"}`` if absent."""
    return {
        "name": name, "summary": summary, "permission": permission, "stream": stream,
        "params": dict(params or {"type": "object"}),
        "result": dict(result or {"type": "object"}),
    }


class Service:
    """A connection that serves ``namespace``. Iterate over it for requests.

    Raises as :class:`kairo.Client` and its ``call``.
    """

    def __init__(
        self,
        namespace: str,
        methods: List[Mapping[str, Any]],
        endpoint: Union[None, str, "os.PathLike[str]", endpoints.Endpoint] = None,
        *,
        confine: Optional[str] = None,
        timeout_ms: int = 5000,
    ) -> None:
        #: The connection, for calls of the service's own. It is not made anew when it ends: the
        #: namespace ended with it.
        self.client = Client(endpoint, reconnect=False, large_frames=True)
        self._streams: Dict[str, Stream] = {}
        self._ended: "OrderedDict[str, None]" = OrderedDict()
        self._waiting: List[Asked] = []
        if confine is not None:
            self.client.call("kernel.confine", {"class": confine, "name": namespace})
        self._link.session.asked = []
        params = {"namespace": namespace, "methods": list(methods), "timeout_ms": timeout_ms}
        self.client.call("service.register", params)

    @property
    def _link(self) -> Any:
        return self.client._link

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Asked]:
        while True:
            asked = self.next(None)
            assert asked is not None
            yield asked

    def close(self) -> None:
        """Ends the connection: callers are told."""
        self.client.close()

    def next(self, timeout_s: Optional[float]) -> Optional[Asked]:
        """The next request; None when ``timeout_s`` seconds pass first.

        Raises :class:`kairo.ConnectionLost`.
        """
        until = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        while not self._waiting:
            if not self._pump(until):
                return None
        return self._waiting.pop(0)

    def answer(self, asked: Asked, result: Any) -> None:
        """Answers a request."""
        self._send({"id": asked.id, "result": result}, frames.RESPONSE)

    def refuse(self, asked: Asked, code: str, message: str, **details: Any) -> None:
        """Refuses a request."""
        info = {"code": code, "message": message, "details": details, "retryable": False}
        response = {"id": asked.id, "result": None, "error": message, "error_info": info}
        self._send(response, frames.RESPONSE)

    def open(self, asked: Asked, result: Optional[Mapping[str, Any]] = None) -> "Stream":
        """Answers a request that opens a stream. Raises :class:`ValueError` when it opens none."""
        if asked.stream is None:
            raise ValueError(f"{asked.method} was registered without stream=True")
        stream = Stream(self, asked.stream)
        if self._ended.pop(stream.name, self) is None:
            stream.ended = True
        else:
            self._streams[stream.name] = stream
        self.answer(asked, dict(result or {}))
        return stream

    def _send(self, message: Mapping[str, Any], kind: int, sealed: Optional[Sealed] = None) -> None:
        link = self._link
        frame = messages.encode(kind, message, link.session.limits)
        descriptor = None if sealed is None else sealed.descriptor
        link.send(frame, time.monotonic() + self.client.deadline_s, descriptor)

    def _pump(self, until: float) -> bool:
        """Takes in what comes; False at ``until``."""
        link = self._link
        if not link.session.asked:
            if link.session.error is not None:
                raise link.session.error
            if not link.pump(until):
                return False
        taken, link.session.asked = link.session.asked, []
        for asked in taken:
            self._take(asked)
        return True

    def _take(self, asked: Asked) -> None:
        name = asked.params.get("subscription")
        stream = self._streams.get(name) if isinstance(name, str) else None
        if asked.method == "stream.credit":
            granted = asked.params.get("bytes")
            if stream is not None and isinstance(granted, int):
                stream.credit_bytes += granted
        elif asked.method == "stream.ended":
            if stream is not None:
                stream.ended = True
                del self._streams[stream.name]
            elif isinstance(name, str):
                self._ended[name] = None
                while len(self._ended) > _KEPT:
                    self._ended.popitem(last=False)
        elif asked.id is not None:
            if len(self._waiting) >= _KEPT:
                raise Backlog(f"{_KEPT} requests wait to be served")
            self._waiting.append(asked)


class Stream:
    """The sending end of a stream. Leaving its ``with`` ends it."""

    def __init__(self, service: Service, terms: Mapping[str, Any]) -> None:
        self.name: str = terms["subscription"]
        #: What may still be sent.
        self.credit_bytes: int = terms["credit_bytes"]
        #: Whether payloads may be :class:`kairo.Sealed`.
        self.descriptors: bool = terms["descriptors"]
        #: Nobody reads it any more, or it has ended.
        self.ended = False
        self._service = service
        self._seq = 0
        self._offset = 0
        self._gap: Optional[Dict[str, int]] = None

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, kind: Optional[type], *_: object) -> None:
        self.end(None if kind is None else "the service failed")

    def send(self, data: bytes, timeout_s: Optional[float] = None) -> bool:
        """Sends all of ``data``, in as many chunks as the credit makes of it.

        False when nobody reads any more. Raises :class:`kairo.DeadlineExceeded`; then a part of it
        was sent.
        """
        rest = memoryview(data)
        most = DESCRIPTOR_COST_BYTES - CHUNK_OVERHEAD_BYTES
        until = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        while rest:
            if not self._wait(CHUNK_OVERHEAD_BYTES + 1, until):
                return False
            piece = rest[:min(most, self.credit_bytes - CHUNK_OVERHEAD_BYTES)]
            rest = rest[len(piece):]
            self.credit_bytes -= CHUNK_OVERHEAD_BYTES + len(piece)
            self._chunk(len(piece), {"data": bytes(piece)})
        return not self.ended

    def send_sealed(self, sealed: Sealed, timeout_s: Optional[float] = None) -> bool:
        """Sends a payload without copying it; as :meth:`send`."""
        until = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        if not self._wait(DESCRIPTOR_COST_BYTES, until):
            return False
        self.credit_bytes -= DESCRIPTOR_COST_BYTES
        self._chunk(sealed.length, {"data": b"", "attached_bytes": sealed.length}, sealed)
        return True

    def skip(self, count: int) -> None:
        """Says that the next ``count`` bytes are lost."""
        begins = self._offset if self._gap is None else self._gap["from"]
        self._offset += count
        self._gap = {"from": begins, "to": self._offset}

    def end(self, error: Optional[str] = None) -> None:
        """Ends it, with what went wrong if something did."""
        if self.ended:
            return
        last: Dict[str, Any] = {"data": b"", "end": True}
        if error is not None:
            last["error"] = {"code": "E_INTERNAL", "message": error}
        self._chunk(0, last)
        self.ended = True
        self._service._streams.pop(self.name, None)

    def _wait(self, cost: int, until: float) -> bool:
        while not self.ended and self.credit_bytes < cost:
            if not self._service._pump(until):
                raise DeadlineExceeded(f"stream {self.name}: no credit in time")
        return not self.ended

    def _chunk(
        self, length: int, more: Mapping[str, Any], sealed: Optional[Sealed] = None
    ) -> None:
        chunk = {
            "subscription": self.name, "stream": "", "seq": self._seq, "offset": self._offset,
            **more,
        }
        if self._gap is not None:
            chunk["gap"], self._gap = self._gap, None
        self._seq += 1
        self._offset += length
        self._service._send(chunk, frames.STREAM_CHUNK, sealed)
