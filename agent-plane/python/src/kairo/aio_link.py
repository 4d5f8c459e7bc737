"""An asyncio connection: a session, and a task that reads for it."""

from __future__ import annotations

import asyncio
from typing import Any, Callable, Optional

from . import command
from .errors import ConnectionLost, DeadlineExceeded, KairoError, ProtocolError
from .session import Call, Session

_READ_BYTES = 64 * 1024
#: Bytes that may wait to be sent before a call waits for them.
_QUEUED_BYTES = 64 * 1024


class Link:
    """A connection: a session, and a task that reads for it."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, large_frames: bool
    ) -> None:
        self.session = Session(large_frames=large_frames)
        self._reader = reader
        self._writer = writer
        self._task = asyncio.ensure_future(self._read())

    @property
    def is_open(self) -> bool:
        """Whether it can still be used."""
        return self.session.error is None

    def close(self, error: Optional[KairoError] = None) -> None:
        """Ends it; what waits for it fails with ``error``."""
        if self.is_open:
            self.session.fail(error or ConnectionLost("the client was closed"))
        self._writer.close()
        if self._task is not asyncio.current_task():
            self._task.cancel()

    def send(self, frame: bytes) -> None:
        """Hands a frame over. Raises :class:`kairo.ConnectionLost`; then nothing was sent."""
        if not self.is_open or self._writer.is_closing():
            self.close(ConnectionLost("the connection to the kernel ended"))
            raise ConnectionLost(str(self.session.error))
        self._writer.write(frame)

    def flush(self) -> None:
        """Sends what the session has queued."""
        if self.session.outbox and self.is_open:
            frames, self.session.outbox = bytes(self.session.outbox), bytearray()
            self.send(frames)

    async def drained(self, timeout_s: float) -> None:
        """Waits, at most so long, while too much waits to be sent."""
        if self._writer.transport.get_write_buffer_size() < _QUEUED_BYTES:
            return
        drain = asyncio.ensure_future(self._drain())
        try:
            await within(drain, timeout_s)
        finally:
            drain.cancel()

    async def _drain(self) -> None:
        try:
            await self._writer.drain()
        except OSError as error:
            self.close(ConnectionLost(f"the connection to the kernel failed: {error}"))

    async def _read(self) -> None:
        try:
            while True:
                data = await self._reader.read(_READ_BYTES)
                if not data:
                    self.close(ConnectionLost("the kernel closed the connection"))
                    return
                self.session.feed(data)
                self.flush()
        except (ProtocolError, ConnectionLost) as error:
            self.close(error)
        except OSError as error:
            self.close(ConnectionLost(f"the connection to the kernel failed: {error}"))


async def answered(
    link: Link, call: Call, frame: bytes, until: float, deadline_s: float
) -> None:
    """Sends a request and waits for its answer; gives it up when that is not to be."""
    loop = asyncio.get_running_loop()
    done: "asyncio.Future[None]" = loop.create_future()
    call.wake = waking(done)
    try:
        link.send(frame)
        await link.drained(until - loop.time())
        if not call.done:
            await within(done, until - loop.time())
        if not call.done:
            raise DeadlineExceeded(command.late(call.method, deadline_s))
    except BaseException:
        # Also when the task is cancelled.
        link.session.abandon(call)
        if link.is_open:
            link.flush()
        raise
    call.outcome()


def waking(future: "asyncio.Future[None]") -> Callable[[], None]:
    """What ends ``future``, once."""

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    return wake


async def within(what: "asyncio.Future[Any]", timeout_s: Optional[float]) -> None:
    """Waits for ``what``, or until the time is over: the caller looks which.

    Not ``asyncio.wait_for``: before Python 3.12 that one loses a cancellation that arrives
    together with the result.
    """
    await asyncio.wait({what}, timeout=None if timeout_s is None else max(0.0, timeout_s))
