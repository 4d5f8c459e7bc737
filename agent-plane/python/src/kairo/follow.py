"""Following events over any number of connections: for programs that outlive a kernel.

A subscription ends with its connection and raises :class:`kairo.ConnectionLost`. Following connects
again with growing pauses, subscribes from behind what it has seen, leaves out what it gave already,
and tells of the break. Each event of a durable class comes once. Volatile events of the break are
gone. Claims are not taken up again: a device that came to rest must not go on by itself.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Dict, Optional, Set, Union

from .client import Client, Subscription
from .errors import Backlog, CannotConnect, ConnectionLost, DeadlineExceeded, KairoError, Refused
from .messages import Event

#: Numbers behind the newest one that are asked for again after a break, because live events do not
#: come strictly in their order: as many as the kernel keeps in memory.
WINDOW = 1024
FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 2.0
_GAP = "kairo.system.event.gap"


@dataclass(frozen=True)
class Lost:
    """Events of these numbers, some of which may have been wanted, are gone."""

    #: The first.
    from_seq: int
    #: The one behind the last.
    to_seq: int


@dataclass(frozen=True)
class Resumed:
    """The connection had ended, and there is another; claims and intents ended with the old one."""

    #: Where the log is read on from.
    from_seq: int


Followed = Union[Event, Lost, Resumed]


class Place:
    """Where a follower is, apart from any connection. No I/O."""

    def __init__(self, topics: "tuple[str, ...]", start: Union[None, int, str]) -> None:
        self._topics = list(topics) or [">"]
        self._start = start
        self._first: Optional[int] = None
        self._newest = 0
        self._given: Set[int] = set()
        self._fresh = False

    def params(self) -> Dict[str, Any]:
        """The parameters of ``event.subscribe``."""
        params: Dict[str, Any] = {"topics": self._topics, "policy": "block"}
        start = self._start
        if self._first is not None:
            start = max(self._first, self._newest + 1 - WINDOW)
        if start is not None:
            params["from"] = start
        return params

    def subscribed(self, reply: Any) -> Optional[Resumed]:
        """It is subscribed, with this reply. Tells of a break if there was one."""
        begins = reply["from_seq"]
        if self._first is not None:
            self._fresh = True
            return Resumed(begins)
        self._first, self._newest = begins, begins - 1
        return None

    def take(self, event: Any) -> Optional[Followed]:
        """Takes in an event; None for what was given already."""
        if not isinstance(event, Event):
            return None
        if event.topic == _GAP and event.source == "kairod":
            begins, ends = event.data["from_seq"], event.data["to_seq"]
            if self._fresh:
                # The part behind the newest is new; before it, it is only read again.
                begins = max(begins, self._newest + 1)
            return Lost(begins, ends) if begins < ends else None
        seq = event.seq
        if (self._first is not None and seq < self._first) or seq in self._given:
            return None
        self._given.add(seq)
        self._fresh = self._fresh and seq <= self._newest
        self._newest = max(self._newest, seq)
        if len(self._given) > 2 * WINDOW:
            oldest = self._newest + 1 - WINDOW
            self._given = {number for number in self._given if number >= oldest}
        return event


def may_resume(error: KairoError) -> bool:
    """Whether a new connection, or a later moment, can help."""
    if isinstance(error, Refused):
        # The log of a kernel that just started may not be there yet.
        return error.retryable
    return isinstance(error, (ConnectionLost, CannotConnect, DeadlineExceeded, Backlog))


class Following:
    """Events of some topics (all, if none given), as an iterator that outlives its connections.

    ``start`` is None for what comes, ``"start"`` for the whole log, or a number. ``timeout_s`` is
    how long ``next()`` waits; None means for ever. Iterating gives :class:`kairo.Event`,
    :class:`kairo.Lost` and :class:`kairo.Resumed`. The client serves nothing else meanwhile than
    calls in between.

    Making it raises as :meth:`kairo.Client.call`.
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
        self._subscribe()

    def __iter__(self) -> "Following":
        return self

    def __next__(self) -> Followed:
        return self.next(self.timeout_s)

    def next(self, timeout_s: Optional[float]) -> Followed:
        """The next event, loss or break.

        Raises :class:`kairo.DeadlineExceeded` after ``timeout_s`` seconds, and at once what no new
        connection can help.
        """
        until = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = until - time.monotonic()
            try:
                found = self._try(None if timeout_s is None else max(0.001, left_s))
                if found is not None:
                    return found
            except KairoError as error:
                late = isinstance(error, DeadlineExceeded) and self._open is not None
                if late or not may_resume(error) or not self._client._may_reconnect():
                    raise
                self._open = None
                if time.monotonic() + self._pause_s >= until:
                    raise DeadlineExceeded(f"nothing in {timeout_s} s: {error}") from error
                time.sleep(self._pause_s)
                self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _try(self, left_s: Optional[float]) -> Optional[Followed]:
        if self._open is None:
            return self._subscribe()
        item = self._open.next(left_s)
        if item is None:
            raise ConnectionLost("the subscription has ended")
        return self._place.take(item)

    def _subscribe(self) -> Optional[Resumed]:
        self._open = self._client.subscribe("event.subscribe", self._place.params())
        self._pause_s = FIRST_PAUSE_S
        return self._place.subscribed(self._open.reply)
