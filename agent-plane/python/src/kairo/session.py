"""One connection without I/O: ids, requests under way, subscriptions, credit.

Both clients feed it what they read and send what it gives: what a response means, where an event
belongs and when credit is topped up is decided here and nowhere else. Not safe for threads; the
clients see to it that one at a time is inside.

What is kept is bounded: :data:`ABANDONED_CALLS` given-up calls, and for each subscription
:data:`INBOX_ITEMS` unread items.
"""

from __future__ import annotations

import os
from collections import OrderedDict, deque
from dataclasses import replace
from typing import Any, Callable, Deque, Dict, List, Mapping, Optional, Sequence, Tuple

from . import frames, messages
from .errors import (
    Backlog, ConnectionLost, KairoError, ProtocolError, Refused, WrongShape, refusal,
)
from .sealed import Sealed

#: Events and chunks that a subscription keeps unread.
INBOX_ITEMS = 4096
#: The topic of the one event of a connection that the kernel does not serve.
CONNECTION_REFUSED = "kairo.system.connection.refused"
#: What a chunk with a descriptor counts as credit, bytes.
DESCRIPTOR_COST_BYTES = 64 * 1024
#: Calls given up whose late answers are still recognised.
ABANDONED_CALLS = 1024

#: What takes a result back that nobody waits for any more: its method and parameters.
Undo = Callable[[Any], Optional[Tuple[str, Dict[str, Any]]]]


class Call:
    """A request under way."""

    __slots__ = ("number", "method", "opens", "credit_bytes", "undo", "done", "result", "error",
                 "inbox", "wake")

    def __init__(self, number: int, method: str) -> None:
        self.number = number
        self.method = method
        #: Whether its result opens a subscription.
        self.opens = False
        self.credit_bytes: Optional[int] = None
        self.undo: Optional[Undo] = None
        self.done = False
        self.result: Any = None
        self.error: Optional[KairoError] = None
        #: The subscription that it opened.
        self.inbox: Optional[Inbox] = None
        #: Called when it is done, by clients that wait for several.
        self.wake: Callable[[], None] = _nobody

    def finish(self, result: Any, error: Optional[KairoError]) -> None:
        """Ends it."""
        self.done, self.result, self.error = True, result, error
        self.wake()

    def outcome(self) -> Any:
        """The result; raises the error."""
        if self.error is not None:
            raise self.error
        return self.result


class Inbox:
    """What one subscription delivered and nobody has read yet."""

    __slots__ = ("name", "reply", "items", "credit_bytes", "read_bytes", "overflowed", "ended",
                 "error", "wake", "_session")

    def __init__(self, session: "Session", name: str, reply: Any, credit: Optional[int]) -> None:
        #: Its name, as items carry it.
        self.name = name
        #: The whole reply of the subscribing method.
        self.reply = reply
        self.items: Deque[Tuple[messages.Item, int]] = deque()
        #: The credit it began with, bytes; None when it has none to count.
        self.credit_bytes = credit
        self.read_bytes = 0
        self.overflowed = False
        #: Nothing more comes.
        self.ended = False
        self.error: Optional[KairoError] = None
        self.wake: Callable[[], None] = _nobody
        self._session = session

    def put(self, item: messages.Item, frame_bytes: int) -> None:
        """Takes an item in."""
        if len(self.items) >= INBOX_ITEMS:
            self.overflowed = True
        else:
            self.items.append((item, frame_bytes))
            if isinstance(item, messages.Chunk) and item.end:
                self.ended = True
        self.wake()

    def take(self) -> Optional[messages.Item]:
        """The next item, or None; tops credit up when half of it has been read.

        Raises :class:`kairo.Backlog` or why the connection ended, after the last item.
        """
        if self.items:
            item, frame_bytes = self.items.popleft()
            self.read_bytes += frame_bytes
            if self.credit_bytes is not None and 2 * self.read_bytes >= self.credit_bytes:
                self._session.grant(self.name, self.read_bytes)
                self.read_bytes = 0
            return item
        if self.overflowed:
            self.overflowed = False
            raise Backlog(
                f"subscription {self.name}: {INBOX_ITEMS} items waited unread and the next were "
                "lost; read faster, or subscribe with a credit"
            )
        if self.error is not None:
            raise self.error
        return None


def _nobody() -> None:
    """Wakes nobody."""


def release_late(result: Any) -> Optional[Tuple[str, Dict[str, Any]]]:
    """Undoes a claim that was granted after its caller gave up."""
    if not isinstance(result, dict):
        return None
    params = {key: result[key] for key in ("device", "epoch") if key in result}
    return "device.release", params


class Session:
    """The protocol's state of one connection."""

    def __init__(
        self, limits: frames.Limits = frames.Limits(), large_frames: bool = False
    ) -> None:
        self.limits = limits
        #: Bytes that must be sent: credit, cancellation, what undoes late answers.
        self.outbox = bytearray()
        #: Features that ``kernel.hello`` granted.
        self.features: List[str] = []
        #: Items of subscriptions that nobody here has, counted.
        self.strays = 0
        #: Why the connection is of no more use.
        self.error: Optional[KairoError] = None
        #: Requests that wait to be served; None where this connection serves nothing.
        self.asked: Optional[List[messages.Asked]] = None
        #: Whether requests to services, and their answers, may be large.
        self.large_frames = large_frames
        #: Whether descriptors can come: only over a Unix socket, to who asks for them.
        self.takes_descriptors = False
        self._arrived: Deque[int] = deque()
        self._decoder = frames.Decoder(limits)
        self._next = 1
        self._pending: Dict[int, Call] = {}
        self._abandoned: "OrderedDict[int, Optional[Call]]" = OrderedDict()
        self._inboxes: Dict[str, Inbox] = {}

    def request(
        self,
        method: str,
        params: Optional[Mapping[str, Any]] = None,
        meta: Optional[Mapping[str, Any]] = None,
    ) -> Tuple[Call, bytes]:
        """A new call and its frame.

        Raises :class:`kairo.Unencodable` or :class:`kairo.MessageTooLong`; then nothing is kept.
        """
        number = self._next
        frame = messages.request(method, params, meta, number, self.limits)
        self._next += 1
        call = Call(number, method)
        self._pending[number] = call
        return call, frame

    def notification(self, method: str, params: Optional[Mapping[str, Any]] = None) -> bytes:
        """The frame of a request that gets no response. Raises as :meth:`request`."""
        return messages.request(method, params, None, None, self.limits)

    def hello(self) -> bytes:
        """The frame that asks which features there are; the answer is taken in silently."""
        call, frame = self.request("kernel.hello", {"features": self._wishes()})

        def note() -> None:
            granted = call.result.get("features") if isinstance(call.result, dict) else None
            if isinstance(granted, list):
                self.features = [name for name in granted if isinstance(name, str)]
            if "large_frames" in self.features:
                large = frames.LARGE_CONTROL_BYTES
                self.limits = replace(self.limits, control_bytes=large)
                self._decoder.limits = self.limits

        call.wake = note
        return frame

    def _wishes(self) -> List[str]:
        asked = ["cancel", "credit"]
        asked += ["descriptors"] if self.takes_descriptors else []
        return asked + (["large_frames"] if self.large_frames else [])

    def abandon(self, call: Call) -> None:
        """Nobody waits for ``call`` any more.

        Where the kernel offers it, it is told; and what a late answer gives is taken back.
        """
        if self._pending.pop(call.number, None) is None:
            if call.done and call.error is None:
                # It was answered in the very moment in which it was given up.
                self._take_back(call, call.result)
            return
        undoes = call.undo is not None or call.opens
        self._abandoned[call.number] = call if undoes else None
        while len(self._abandoned) > ABANDONED_CALLS:
            self._abandoned.popitem(last=False)
        if "cancel" in self.features:
            self.outbox += self.notification("kernel.cancel", {"id": call.number})

    def grant(self, subscription: str, count: int) -> None:
        """Queues credit of ``count`` bytes for a subscription."""
        params = {"subscription": subscription, "bytes": count}
        self.outbox += self.notification("stream.credit", params)

    def forget(self, inbox: Inbox) -> None:
        """Drops a subscription and queues its end."""
        if self._inboxes.pop(inbox.name, None) is not None and not inbox.ended:
            params = {"subscription": inbox.name}
            self.outbox += self.notification("event.unsubscribe", params)
        inbox.ended = True
        inbox.items.clear()

    def feed(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Takes bytes that arrived, and the descriptors beside them, which are its own then.

        Raises :class:`kairo.ProtocolError`; then close.
        """
        self._arrived.extend(descriptors)
        try:
            for kind, payload in self._decoder.feed(data):
                what, message = messages.incoming(kind, payload, self.limits)
                if what == "response":
                    self._answer(message)
                elif what == "request":
                    if self.asked is None:
                        raise WrongShape("the kernel sent a request to who serves nothing")
                    self.asked.append(message)
                else:
                    if what == "chunk" and message.attached_bytes is not None:
                        message = self._attach(message)
                    self._deliver(message, frames.HEADER_BYTES + len(payload))
        except ProtocolError as error:
            self.fail(error)
            raise

    def fail(self, error: KairoError) -> None:
        """The connection is over: every call under way and every subscription ends with it."""
        if self.error is None:
            self.error = error
        while self._arrived:
            os.close(self._arrived.popleft())
        pending, self._pending = self._pending, {}
        for call in pending.values():
            lost: KairoError = error
            if isinstance(error, ConnectionLost):
                # Each its own, because a traceback belongs to one raise.
                lost = ConnectionLost(str(error), may_have_happened=True)
            call.finish(None, lost)
        for inbox in self._inboxes.values():
            inbox.error = error
            inbox.wake()
        self._inboxes = {}

    def _attach(self, chunk: messages.Chunk) -> messages.Chunk:
        """The chunk with the descriptor that it announces."""
        if not self._arrived:
            raise WrongShape("a stream chunk's descriptor did not come")
        assert chunk.attached_bytes is not None
        sealed = Sealed.accept(self._arrived.popleft(), chunk.attached_bytes)
        return replace(chunk, attached=sealed)

    def _answer(self, response: messages.Response) -> None:
        number = response.id
        if not isinstance(number, int):
            return
        call = self._pending.pop(number, None)
        if call is None:
            self._late(number, response)
            return
        if response.error_info is not None or response.error is not None:
            try:
                error: KairoError = refusal(response.error_info, response.error, call.method)
            except ProtocolError as wrong:
                call.finish(None, wrong)
                raise
            call.finish(None, error)
            return
        if call.opens:
            self._open(call, response.result)
        if not call.done:
            call.finish(response.result, None)

    def _late(self, number: int, response: messages.Response) -> None:
        """An answer that nobody waits for: what it gives is given back."""
        call = self._abandoned.pop(number, None)
        if call is None or response.error_info is not None or response.error is not None:
            return
        self._take_back(call, response.result)

    def _take_back(self, call: Call, result: Any) -> None:
        """Queues what undoes a result that nobody will use."""
        if call.inbox is not None:
            self.forget(call.inbox)
        elif call.opens and isinstance(result, dict) and "subscription" in result:
            params = {"subscription": result["subscription"]}
            self.outbox += self.notification("event.unsubscribe", params)
        elif call.undo is not None:
            back = call.undo(result)
            if back is not None:
                self.outbox += self.notification(*back)

    def _open(self, call: Call, result: Any) -> None:
        name = result.get("subscription") if isinstance(result, dict) else None
        if not isinstance(name, str):
            text = f"no text `subscription` in the result of {call.method}"
            call.finish(None, Refused(text, code="E_INTERNAL", method=call.method))
            return
        # Made here, before the next frame is looked at: items may follow the answer at once.
        call.inbox = Inbox(self, name, result, call.credit_bytes)
        self._inboxes[name] = call.inbox

    def _deliver(self, item: messages.Item, frame_bytes: int) -> None:
        inbox = self._inboxes.get(item.subscription or "")
        if inbox is None:
            if isinstance(item, messages.Event) and item.topic == CONNECTION_REFUSED:
                # Events of a subscription carry its name: nobody else can have published this.
                self.fail(refusal(item.data, None, None))
            self.strays += 1
            return
        attached = isinstance(item, messages.Chunk) and item.attached is not None
        inbox.put(item, max(frame_bytes, DESCRIPTOR_COST_BYTES) if attached else frame_bytes)
        if inbox.ended:
            self._inboxes.pop(inbox.name, None)
