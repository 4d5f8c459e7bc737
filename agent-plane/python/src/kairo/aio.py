"""The asyncio client: the same as :class:`kairo.Client`, with any number of calls under way.

    import asyncio, kairo.aio

    async def main():
        async with kairo.aio.Client() as client:
            print(await client.call("device.list"))

    asyncio.run(main())
"""

from __future__ import annotations

import asyncio
import os
from typing import Any, Callable, Dict, Mapping, Optional, Union

from . import command, endpoint as endpoints
from .aio_link import Link, answered, waking, within
from .errors import CannotConnect, ConnectionLost, DeadlineExceeded, KairoError, Refused
from .introspection import Method, Namespace, Tables
from .messages import Chunk, Event, Item
from .session import Call, Inbox, Undo, release_late

_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.5


class Client:
    """A connection to the kernel, in one event loop. See :class:`kairo.Client` for the arguments,
    for what happens when the connection ends, and for the kernel's methods as attributes.

    It connects with ``async with``, with ``await client.open()``, or by itself at the first call.
    Cancelling a task that waits for a call gives the call up: where the kernel offers it the
    kernel is told, and a claim or subscription that is granted too late is given back.
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
        self._closed = False
        self._methods: Optional[Dict[str, Method]] = None
        self._tables = Tables()
        self._link: Optional[Link] = None
        self._connecting: Optional["asyncio.Future[Link]"] = None

    async def __aenter__(self) -> "Client":
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __getattr__(self, name: str) -> Namespace:
        if name.startswith("_"):
            raise AttributeError(name)
        return Namespace(name, self.methods, self.call)

    async def open(self) -> "Client":
        """Connects, unless it is. Raises :class:`kairo.CannotConnect`."""
        if self._link is None:
            self._link = await self._connect(self.deadline_s)
        return self

    async def close(self) -> None:
        """Ends the connection, and with it its claims and subscriptions."""
        self._closed = True
        if self._link is not None:
            self._link.close()
            # One turn of the loop, so that the transport closes before the loop does.
            await asyncio.sleep(0)

    async def call(
        self,
        method: str,
        params: Optional[Mapping[str, Any]] = None,
        *,
        deadline_s: Optional[float] = None,
        meta: Optional[Mapping[str, Any]] = None,
        idempotent: bool = False,
        idempotency_key: Optional[str] = None,
    ) -> Any:
        """Calls ``method`` and gives its result. Raises as :meth:`kairo.Client.call`."""
        again = idempotent or idempotency_key is not None
        call, _ = await self._run(
            method, params, deadline_s, meta=meta, key=idempotency_key, again=again
        )
        return call.result

    async def notify(self, method: str, params: Optional[Mapping[str, Any]] = None) -> None:
        """Sends a request that gets no response. Raises as :meth:`call`, but for refusals."""
        link = await self._ensure(asyncio.get_running_loop().time() + self.deadline_s)
        link.send(link.session.notification(method, params))
        await link.drained(self.deadline_s)

    async def methods(self) -> Dict[str, Method]:
        """What the kernel offers, by name; asked once a connection."""
        if self._methods is None:
            question = self._tables.question()
            answer = await self.call("kernel.introspect", question, idempotent=True)
            self._methods = self._tables.take(answer)
        return self._methods

    async def remedy(self, error: Refused) -> str:
        """What to do about a refusal, in a sentence; empty where the kernel does not say."""
        await self.methods()
        return self._tables.remedy(error)

    async def subscribe(
        self,
        method: str,
        params: Optional[Mapping[str, Any]] = None,
        *,
        credit_bytes: Optional[int] = command.CREDIT_BYTES,
        timeout_s: Optional[float] = None,
        deadline_s: Optional[float] = None,
    ) -> "Subscription":
        """As :meth:`kairo.Client.subscribe`; iterate with ``async for``."""
        whole = dict(params or {})
        if credit_bytes is not None:
            whole.setdefault("credit_bytes", credit_bytes)

        def prepare(call: Call) -> None:
            call.opens, call.credit_bytes = True, credit_bytes

        call, link = await self._run(method, whole, deadline_s, prepare=prepare)
        assert call.inbox is not None
        return Subscription(link, call.inbox, timeout_s)

    async def events(
        self, *topics: str, policy: str = "drop", timeout_s: Optional[float] = None
    ) -> "Subscription":
        """As :meth:`kairo.Client.events`."""
        params = {"topics": list(topics) or [">"], "policy": policy}
        return await self.subscribe("event.subscribe", params, timeout_s=timeout_s)

    async def samples(
        self,
        device: str,
        *,
        rate_hz: float = 20.0,
        policy: str = "drop",
        timeout_s: Optional[float] = None,
    ) -> "Subscription":
        """As :meth:`kairo.Client.samples`."""
        params = {"device": device, "rate_hz": float(rate_hz), "policy": policy}
        return await self.subscribe("device.subscribe", params, timeout_s=timeout_s)

    def claim(self, device: str, *, deadline_s: Optional[float] = None) -> "Claim":
        """Claims a device: ``async with client.claim("arm") as arm``, or ``await`` it.

        Raises as :meth:`kairo.Client.claim`.
        """
        return Claim(self, device, deadline_s)

    async def inherited_claim(self) -> "Claim":
        """As :meth:`kairo.Client.inherited_claim`, but already claimed: no ``async with``."""
        granted = command.inherited(os.environ)
        claim = Claim(self, granted["device"], None)
        claim.epoch, claim._link = granted["epoch"], (await self.open())._link
        return claim

    # ── below: the connection ──

    async def _connect(self, timeout_s: float) -> Link:
        loop = asyncio.get_running_loop()
        # Connecting to a local socket is quick, but it can wait for a full queue.
        stream = await loop.run_in_executor(None, endpoints.connect, self.endpoint, timeout_s)
        stream.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=stream)
        link = Link(reader, writer, self.large_frames)
        link.send(link.session.hello())
        return link

    def _may_reconnect(self) -> bool:
        return self.reconnect and not self._closed and self.endpoint.can_reconnect

    async def _ensure(self, until: float) -> Link:
        """A link that is open as far as can be known; made once for all that wait for it."""
        link = self._link
        if link is not None and link.is_open and not self._closed:
            return link
        if self._closed or link is not None and not self._may_reconnect():
            why = None if self._closed or link is None else link.session.error
            raise ConnectionLost(str(why or "the client was closed"))
        if self._connecting is None:
            self._connecting = asyncio.ensure_future(self._reconnect(until))
            self._connecting.add_done_callback(self._connected)
        # Shielded: one caller that gives up does not take the connection from the others.
        return await asyncio.shield(self._connecting)

    def _connected(self, attempt: "asyncio.Future[Link]") -> None:
        self._connecting = None
        if not attempt.cancelled() and attempt.exception() is None:
            self._link, self._methods = attempt.result(), None

    async def _reconnect(self, until: float) -> Link:
        loop = asyncio.get_running_loop()
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return await self._connect(max(0.001, until - loop.time()))
            except CannotConnect:
                if self._link is None or loop.time() + pause_s >= until:
                    raise
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _run(
        self,
        method: str,
        params: Optional[Mapping[str, Any]],
        deadline_s: Optional[float],
        *,
        meta: Optional[Mapping[str, Any]] = None,
        key: Optional[str] = None,
        again: bool = False,
        prepare: Callable[[Call], None] = lambda call: None,
    ) -> "tuple[Call, Link]":
        """A call that is done, and the connection that it was made on."""
        deadline_s = self.deadline_s if deadline_s is None else deadline_s
        loop = asyncio.get_running_loop()
        until = loop.time() + deadline_s
        whole = command.meta(meta, deadline_s, key)
        while True:
            link = await self._ensure(until)
            call, frame = link.session.request(method, params, whole)
            prepare(call)
            try:
                await answered(link, call, frame, until, deadline_s)
                return call, link
            except ConnectionLost as lost:
                may = (again or not lost.may_have_happened) and self._may_reconnect()
                if not may or loop.time() + _FIRST_PAUSE_S >= until:
                    raise
            await asyncio.sleep(_FIRST_PAUSE_S)


class Subscription:
    """What a subscription delivers, for ``async for``; close it or leave its ``async with``."""

    def __init__(self, link: Link, inbox: Inbox, timeout_s: Optional[float]) -> None:
        self._link = link
        self._inbox = inbox
        #: How long an item is waited for, s; None means for ever.
        self.timeout_s = timeout_s

    @property
    def name(self) -> str:
        """The subscription's name on this connection."""
        return self._inbox.name

    @property
    def reply(self) -> Any:
        """The whole result of the subscribing method."""
        return self._inbox.reply

    async def __aenter__(self) -> "Subscription":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __aiter__(self) -> "Subscription":
        return self

    async def __anext__(self) -> Item:
        item = await self.next(self.timeout_s)
        if item is None:
            raise StopAsyncIteration
        return item

    async def next(self, timeout_s: Optional[float]) -> Union[Event, Chunk, None]:
        """As :meth:`kairo.Subscription.next`; for one task at a time."""
        loop = asyncio.get_running_loop()
        until = None if timeout_s is None else loop.time() + timeout_s
        while True:
            item = self._inbox.take()
            if item is not None:
                self._link.flush()
                return item
            if self._inbox.ended:
                return None
            left_s = None if until is None else until - loop.time()
            if left_s is not None and left_s <= 0:
                raise DeadlineExceeded(f"subscription {self.name}: nothing in {timeout_s} s")
            arrived = loop.create_future()
            self._inbox.wake = waking(arrived)
            await within(arrived, left_s)

    async def close(self) -> None:
        """Ends the subscription. What was queued is dropped."""
        self._link.session.forget(self._inbox)
        if self._link.is_open:
            self._link.flush()


class Claim:
    """A device that this connection may command; see :class:`kairo.Claim`."""

    def __init__(self, client: Client, device: str, deadline_s: Optional[float]) -> None:
        self._client = client
        self._deadline_s = deadline_s
        self._link: Optional[Link] = None
        #: The device's id.
        self.device = device
        #: The fencing token that every command carries; 0 until it is claimed.
        self.epoch = 0
        #: Longest time to live of a command, ms.
        self.ttl_max_ms: Optional[int] = None

    def __await__(self) -> Any:
        return self._open().__await__()

    async def __aenter__(self) -> "Claim":
        return await self._open()

    async def __aexit__(self, kind: Optional[type], *_: object) -> None:
        try:
            await self.release()
        except KairoError as error:
            # It may have ended by itself; and what went wrong inside is worth more than this.
            if kind is None and not isinstance(error, (ConnectionLost, Refused)):
                raise

    async def _open(self) -> "Claim":
        def prepare(call: Call) -> None:
            undo: Undo = release_late
            call.undo = undo

        call, self._link = await self._client._run(
            "device.claim", {"device": self.device}, self._deadline_s, prepare=prepare
        )
        self.device = call.result.get("device", self.device)
        self.epoch, self.ttl_max_ms = call.result["epoch"], call.result.get("ttl_max_ms")
        return self

    async def send(
        self,
        positions: Optional[command.Targets] = None,
        *,
        velocities: Optional[command.Targets] = None,
        ttl_ms: int = command.TTL_MS,
        velocity_scale: Optional[float] = None,
        acceleration_rad_s2: Optional[float] = None,
        jerk_rad_s3: Optional[float] = None,
        deadline_s: Optional[float] = None,
    ) -> Any:
        """As :meth:`kairo.Claim.send`."""
        built = command.build(
            None, positions, velocities, velocity_scale, acceleration_rad_s2, jerk_rad_s3
        )
        return await self._send(built, ttl_ms, deadline_s)

    async def stop(self, *, ttl_ms: int = command.TTL_MS) -> Any:
        """As :meth:`kairo.Claim.stop`."""
        return await self._send({"mode": "stop"}, ttl_ms, None)

    async def reset(self) -> Any:
        """As :meth:`kairo.Claim.reset`."""
        return await self._send({"mode": "reset"}, command.TTL_MS, None)

    async def release(self) -> None:
        """As :meth:`kairo.Claim.release`."""
        self._check()
        await self._client.call("device.release", {"device": self.device, "epoch": self.epoch})

    async def _send(
        self, built: Mapping[str, Any], ttl_ms: int, deadline_s: Optional[float]
    ) -> Any:
        self._check()
        params = {
            "device": self.device, "epoch": self.epoch, "command": built, "ttl_ms": ttl_ms,
        }
        return await self._client.call("device.send", params, deadline_s=deadline_s)

    def _check(self) -> None:
        """A claim ends with its connection; another connection cannot use it."""
        if self._link is None or self._client._link is not self._link or not self._link.is_open:
            text = f"the claim of {self.device!r} ended with its connection; claim it again"
            raise ConnectionLost(text)
