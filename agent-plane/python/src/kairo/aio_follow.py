"""Following events for asyncio; see :mod:`kairo.follow` for what that means."""

from __future__ import annotations

import asyncio
from typing import Optional, Union

from .aio import Client, Subscription
from .errors import ConnectionLost, DeadlineExceeded, KairoError
from .follow import FIRST_PAUSE_S, LONGEST_PAUSE_S, Followed, Place, Resumed, may_resume


class Following:
    """As :class:`kairo.Following`; iterate with ``async for``. For one task at a time.

    It subscribes with ``await following.open()``, or by itself at the first item.
    """

    def __init__(
        self,
        client: Client,
        *topics: str,
        start: Union[None, int, str] = None,
        timeout_s: Optional[float] = None,
    ) -> None:
        self._client = client
        self._place = Place(topics, start)
        #: How long an item is waited for, s; None means for ever.
        self.timeout_s = timeout_s
        self._pause_s = FIRST_PAUSE_S
        self._open: Optional[Subscription] = None

    async def open(self) -> "Following":
        """Subscribes, unless it is. Raises as :meth:`kairo.Client.call`."""
        if self._open is None:
            await self._subscribe()
        return self

    def __aiter__(self) -> "Following":
        return self

    async def __anext__(self) -> Followed:
        return await self.next(self.timeout_s)

    async def next(self, timeout_s: Optional[float]) -> Followed:
        """As :meth:`kairo.Following.next`."""
        loop = asyncio.get_running_loop()
        until = float("inf") if timeout_s is None else loop.time() + timeout_s
        while True:
            left_s = until - loop.time()
            try:
                found = await self._try(None if timeout_s is None else max(0.001, left_s))
                if found is not None:
                    return found
            except KairoError as error:
                late = isinstance(error, DeadlineExceeded) and self._open is not None
                if late or not may_resume(error) or not self._client._may_reconnect():
                    raise
                self._open = None
                if loop.time() + self._pause_s >= until:
                    raise DeadlineExceeded(f"nothing in {timeout_s} s: {error}") from error
                await asyncio.sleep(self._pause_s)
                self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    async def _try(self, left_s: Optional[float]) -> Optional[Followed]:
        if self._open is None:
            return await self._subscribe()
        item = await self._open.next(left_s)
        if item is None:
            raise ConnectionLost("the subscription has ended")
        return self._place.take(item)

    async def _subscribe(self) -> Optional[Resumed]:
        self._open = await self._client.subscribe("event.subscribe", self._place.params())
        self._pause_s = FIRST_PAUSE_S
        return self._place.subscribed(self._open.reply)
