"""The blocking client."""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from typing import Any, Dict, Iterator, Mapping, Optional, Union

from . import command, endpoint as endpoints
from .claim import Claim
from .errors import CannotConnect, ConnectionLost, DeadlineExceeded, Refused
from .introspection import Method, Namespace, Tables
from .link import Link
from .messages import Chunk, Event, Item
from .session import Call, Inbox, Undo, release_late

_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.5


class Client:
    """A connection to the kernel, for one thread at a time; open one for each thread.

    ``endpoint`` is a path, ``tcp:127.0.0.1:PORT``, or None for what the environment names
    (``KAIRO_IPC_FD``, ``KAIRO_IPC_SOCKET``, ``KAIRO_RUN_DIR``, else ``/run/kairo/kernel.sock``).
    ``deadline_s`` is how long a call may take unless it says otherwise, in seconds.

    A connection that ended is made anew by the next call (``reconnect``). Claims and subscriptions
    ended with it, and say so when they are used. A request that may have reached the kernel is
    never sent twice, unless the call says ``idempotent=True`` or carries an ``idempotency_key``:
    otherwise :class:`kairo.ConnectionLost` says with ``may_have_happened`` what is known.

    Every method of the kernel is also an attribute: ``client.device.info(device="arm")``. Names
    and parameters are then checked here, against the kernel's own schemas.

    ``large_frames`` lets requests to services, and their answers, have up to 8 MiB.

    Raises :class:`kairo.EndpointError` or :class:`kairo.CannotConnect`.
    """

    def __init__(
        self,
        endpoint: Union[None, str, "os.PathLike[str]", endpoints.Endpoint] = None,
        *,
        deadline_s: float = command.DEADLINE_S,
        reconnect: bool = True,
        large_frames: bool = False,
    ) -> None:
        self.endpoint = endpoints.resolve(endpoint)
        self.deadline_s = deadline_s
        self.reconnect = reconnect
        self.large_frames = large_frames
        self._busy = threading.Lock()
        self._closed = False
        self._methods: Optional[Dict[str, Method]] = None
        self._tables = Tables()
        self._link = self._connect(time.monotonic() + deadline_s)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Namespace:
        if name.startswith("_"):
            raise AttributeError(name)
        return Namespace(name, self.methods, self.call)

    def close(self) -> None:
        """Ends the connection, and with it its claims and subscriptions."""
        self._closed = True
        self._link.close()

    def call(
        self,
        method: str,
        params: Optional[Mapping[str, Any]] = None,
        *,
        deadline_s: Optional[float] = None,
        meta: Optional[Mapping[str, Any]] = None,
        idempotent: bool = False,
        idempotency_key: Optional[str] = None,
    ) -> Any:
        """Calls ``method`` and gives its result.

        ``meta`` may hold ``correlation_id``, ``causation_id`` and ``traceparent``.

        Raises :class:`kairo.Refused` (or its subclass for the code),
        :class:`kairo.DeadlineExceeded`, :class:`kairo.ConnectionLost`,
        :class:`kairo.CannotConnect`, :class:`kairo.ProtocolError`, :class:`kairo.Unencodable` or
        :class:`kairo.MessageTooLong`.
        """
        deadline_s = self.deadline_s if deadline_s is None else deadline_s
        until = time.monotonic() + deadline_s
        whole = command.meta(meta, deadline_s, idempotency_key)
        again = idempotent or idempotency_key is not None
        with self._alone():
            while True:
                link = self._ensure(until)
                call, frame = link.session.request(method, params, whole)
                try:
                    return self._finish(link, call, frame, until, deadline_s)
                except ConnectionLost as lost:
                    if not self._may_repeat(lost, again, until):
                        raise

    def notify(self, method: str, params: Optional[Mapping[str, Any]] = None) -> None:
        """Sends a request that gets no response. Raises as :meth:`call`, but for refusals."""
        until = time.monotonic() + self.deadline_s
        with self._alone():
            link = self._ensure(until)
            link.send(link.session.notification(method, params), until)

    def methods(self) -> Dict[str, Method]:
        """What the kernel offers, by name; asked once a connection."""
        if self._methods is None:
            question = self._tables.question()
            answer = self.call("kernel.introspect", question, idempotent=True)
            self._methods = self._tables.take(answer)
        return self._methods

    def remedy(self, error: Refused) -> str:
        """What to do about a refusal, in a sentence; empty where the kernel does not say."""
        self.methods()
        return self._tables.remedy(error)

    def subscribe(
        self,
        method: str,
        params: Optional[Mapping[str, Any]] = None,
        *,
        credit_bytes: Optional[int] = command.CREDIT_BYTES,
        timeout_s: Optional[float] = None,
        deadline_s: Optional[float] = None,
    ) -> "Subscription":
        """Calls a method that opens a subscription and gives an iterator over what it delivers.

        ``credit_bytes`` bounds what may be under way, and is topped up as items are read; None
        leaves it to the kernel. ``timeout_s`` is how long ``next()`` waits for an item; None means
        for ever. Raises as :meth:`call`.
        """
        whole = dict(params or {})
        if credit_bytes is not None:
            whole.setdefault("credit_bytes", credit_bytes)
        link, call = self._open(method, whole, deadline_s, opens=True, credit=credit_bytes)
        assert call.inbox is not None
        return Subscription(self, link, call.inbox, timeout_s)

    def events(
        self, *topics: str, policy: str = "drop", timeout_s: Optional[float] = None
    ) -> "Subscription":
        """Events whose topic matches: ``*`` is one segment, ``>`` the tail (all, if none given).

        Iterating gives :class:`kairo.Event`. Raises as :meth:`call`.
        """
        params = {"topics": list(topics) or [">"], "policy": policy}
        return self.subscribe("event.subscribe", params, timeout_s=timeout_s)

    def samples(
        self,
        device: str,
        *,
        rate_hz: float = 20.0,
        policy: str = "drop",
        timeout_s: Optional[float] = None,
    ) -> "Subscription":
        """A device's state, ``rate_hz`` times a second at most.

        Iterating gives :class:`kairo.Chunk`; ``chunk.sample()`` is the state. Raises as
        :meth:`call`.
        """
        params = {"device": device, "rate_hz": float(rate_hz), "policy": policy}
        return self.subscribe("device.subscribe", params, timeout_s=timeout_s)

    def claim(self, device: str, *, deadline_s: Optional[float] = None) -> "Claim":
        """Claims a device. Use it in a ``with``: the claim is released at its end.

        Raises as :meth:`call`; :class:`kairo.Busy` when somebody else has it.
        """
        params = {"device": device}
        link, call = self._open("device.claim", params, deadline_s, undo=release_late)
        return Claim(self, link, device, call.result)

    def inherited_claim(self) -> "Claim":
        """The claim that ``kairo device claim DEVICE -- PROGRAM`` handed over to this program.

        Leaving its ``with`` releases it. Raises :class:`kairo.EndpointError` when there is none.
        """
        granted = command.inherited(os.environ)
        return Claim(self, self._link, granted["device"], granted)

    # ── below: one link, one thread ──

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("a kairo.Client serves one thread at a time; open one for each")
        try:
            yield
        finally:
            self._busy.release()

    def _connect(self, until: float) -> Link:
        left_s = max(0.001, until - time.monotonic())
        link = Link(endpoints.connect(self.endpoint, left_s), self.large_frames)
        try:
            # Baseline clients need no handshake, so nobody waits for this one.
            link.send(link.session.hello(), until)
        except ConnectionLost:
            # The call that needs the connection says so, or makes another.
            pass
        return link

    def _may_reconnect(self) -> bool:
        return self.reconnect and not self._closed and self.endpoint.can_reconnect

    def _may_repeat(self, lost: ConnectionLost, again: bool, until: float) -> bool:
        """Whether a request that was lost may be sent on a new connection; pauses if so."""
        may = (again or not lost.may_have_happened) and self._may_reconnect()
        if not may or time.monotonic() + _FIRST_PAUSE_S >= until:
            return False
        time.sleep(_FIRST_PAUSE_S)
        return True

    def _ensure(self, until: float) -> Link:
        """A link that is open as far as can be known."""
        if self._link.is_open and not self._closed:
            # Takes in an end that came while nobody looked: then nothing was sent yet.
            self._link.read()
        if self._link.is_open and not self._closed:
            return self._link
        if not self._may_reconnect():
            raise ConnectionLost(str(self._link.session.error or "the client was closed"))
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                self._link = self._connect(until)
                self._methods = None
                return self._link
            except (CannotConnect, ConnectionLost):
                if time.monotonic() + pause_s >= until:
                    raise
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _finish(
        self, link: Link, call: Call, frame: bytes, until: float, deadline_s: float
    ) -> Any:
        """Sends a request and waits for its answer, or gives it up."""
        try:
            link.send(frame, until)
            while not call.done:
                if not link.pump(until) and not call.done:
                    raise DeadlineExceeded(command.late(call.method, deadline_s))
        except BaseException:
            link.session.abandon(call)
            if link.is_open:
                link.flush()
            raise
        link.flush()
        return call.outcome()

    def _open(
        self,
        method: str,
        params: Mapping[str, Any],
        deadline_s: Optional[float],
        *,
        opens: bool = False,
        credit: Optional[int] = None,
        undo: Optional[Undo] = None,
    ) -> "tuple[Link, Call]":
        """A call whose result belongs to this connection."""
        deadline_s = self.deadline_s if deadline_s is None else deadline_s
        until = time.monotonic() + deadline_s
        with self._alone():
            while True:
                link = self._ensure(until)
                whole = command.meta(None, deadline_s, None)
                call, frame = link.session.request(method, params, whole)
                call.opens, call.credit_bytes, call.undo = opens, credit, undo
                try:
                    self._finish(link, call, frame, until, deadline_s)
                    return link, call
                except ConnectionLost as lost:
                    if not self._may_repeat(lost, False, until):
                        raise


class Subscription:
    """What a subscription delivers, as an iterator; close it or leave its ``with`` to end it."""

    def __init__(
        self, client: Client, link: Link, inbox: Inbox, timeout_s: Optional[float]
    ) -> None:
        self._client = client
        self._link = link
        self._inbox = inbox
        #: How long ``next()`` waits for an item, s; None means for ever.
        self.timeout_s = timeout_s

    @property
    def name(self) -> str:
        """The subscription's name on this connection."""
        return self._inbox.name

    @property
    def reply(self) -> Any:
        """The whole result of the subscribing method."""
        return self._inbox.reply

    def __enter__(self) -> "Subscription":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> "Subscription":
        return self

    def __next__(self) -> Item:
        item = self.next(self.timeout_s)
        if item is None:
            raise StopIteration
        return item

    def next(self, timeout_s: Optional[float]) -> Union[Event, Chunk, None]:
        """The next item; None after the last.

        Raises :class:`kairo.DeadlineExceeded` after ``timeout_s`` seconds,
        :class:`kairo.ConnectionLost` when the connection ended (with it the subscription), or
        :class:`kairo.Backlog` when items were lost because they were read too late.
        """
        until = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        with self._client._alone():
            while True:
                item = self._inbox.take()
                if item is not None:
                    self._link.flush()
                    return item
                if self._inbox.ended:
                    return None
                if not self._link.pump(until) and not self._inbox.items:
                    raise DeadlineExceeded(f"subscription {self.name}: nothing in {timeout_s} s")

    def close(self) -> None:
        """Ends the subscription. What was queued is dropped."""
        with self._client._alone():
            self._link.session.forget(self._inbox)
            if self._link.is_open:
                self._link.flush()
