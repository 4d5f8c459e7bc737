"""A blocking connection: one socket, one session, every wait bounded by a point in time.

While it sends it also reads: a kernel whose queue for us is full takes no request until we read,
so a client that only wrote could wait for ever.
"""

from __future__ import annotations

import array
import os
import select
import socket
import time
from typing import Any, List, Optional, Tuple

from .errors import ConnectionLost, DeadlineExceeded, KairoError, ProtocolError
from .session import Session

_READ_BYTES = 64 * 1024
#: Descriptors that one read may bring.
_DESCRIPTORS = 8
_CONTROL_BYTES = socket.CMSG_SPACE(_DESCRIPTORS * 4)
#: How long credit, cancellations and the like may take to leave, s.
_FLUSH_S = 10.0


class Link:
    """A connected socket and its session."""

    def __init__(self, stream: socket.socket, large_frames: bool = False) -> None:
        stream.setblocking(False)
        self.stream = stream
        self.session = Session(large_frames=large_frames)
        self.session.takes_descriptors = stream.family == socket.AF_UNIX

    @property
    def is_open(self) -> bool:
        """Whether it can still be used."""
        return self.session.error is None

    def close(self, error: Optional[KairoError] = None) -> None:
        """Ends it; what waits for it fails with ``error``."""
        if self.is_open:
            self.session.fail(error or ConnectionLost("the client was closed"))
        self.stream.close()

    def send(self, frame: bytes, until: float, descriptor: Optional[int] = None) -> None:
        """Sends a frame whole, with a descriptor beside its first byte.

        Raises :class:`kairo.ConnectionLost` (``may_have_happened`` where a byte left) or
        :class:`kairo.DeadlineExceeded`; after half a frame the connection is closed.
        """
        rest = memoryview(frame)
        while rest:
            if not self.is_open:
                raise self._lost(len(rest) < len(frame))
            try:
                if descriptor is None or len(rest) < len(frame):
                    rest = rest[self.stream.send(rest):]
                else:
                    rest = rest[self.stream.sendmsg([rest], _rights(descriptor)):]
                continue
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                self._broken(error)
                raise self._lost(len(rest) < len(frame)) from error
            if not self._wait(until, select.POLLIN | select.POLLOUT):
                if len(rest) < len(frame):
                    # What follows would be taken for the rest of this frame.
                    self.close(ConnectionLost("a request could not be sent in time"))
                raise DeadlineExceeded("the kernel did not take the request in time")
            self.read()

    def pump(self, until: float) -> bool:
        """Waits for bytes and takes them in; False when ``until`` comes first.

        Raises :class:`kairo.ProtocolError`. The end of the connection is not raised: the session
        has told everything that waits.
        """
        if not self._wait(until, select.POLLIN):
            return False
        self.read()
        self.flush()
        return True

    def read(self) -> None:
        """Takes in what is there, without waiting. Raises :class:`kairo.ProtocolError`."""
        descriptors: List[int] = []
        try:
            if self.session.takes_descriptors:
                data, beside, flags, _ = self.stream.recvmsg(
                    _READ_BYTES, _CONTROL_BYTES, socket.MSG_CMSG_CLOEXEC
                )
                descriptors = _descriptors(beside)
                if flags & socket.MSG_CTRUNC:
                    _close_all(descriptors)
                    self.close(ConnectionLost("more descriptors came than may wait"))
                    return
            else:
                data = self.stream.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._broken(error)
            return
        if not data:
            self.close(ConnectionLost("the kernel closed the connection"))
            return
        try:
            self.session.feed(data, descriptors)
        except ProtocolError:
            self.stream.close()
            raise

    def flush(self) -> None:
        """Sends what the session has queued: credit, cancellations, what undoes late answers."""
        while self.session.outbox and self.is_open:
            frames, self.session.outbox = bytes(self.session.outbox), bytearray()
            try:
                self.send(frames, time.monotonic() + _FLUSH_S)
            except (ConnectionLost, DeadlineExceeded):
                return

    def _wait(self, until: float, events: int) -> bool:
        if not self.is_open:
            return True
        poll = select.poll()
        poll.register(self.stream, events)
        left_ms = (until - time.monotonic()) * 1000
        # Rounded up: a wait of zero would spin through the last millisecond.
        return bool(poll.poll(None if until == float("inf") else max(0, int(left_ms) + 1)))

    def _broken(self, error: OSError) -> None:
        self.close(ConnectionLost(f"the connection to the kernel failed: {error}"))

    def _lost(self, sent: bool) -> ConnectionLost:
        return ConnectionLost(str(self.session.error), may_have_happened=sent)


def _rights(descriptor: int) -> "List[Tuple[int, int, Any]]":
    """What passes a descriptor on."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]


def _descriptors(beside: "List[Tuple[int, int, bytes]]") -> List[int]:
    """The descriptors that came beside the bytes."""
    found = array.array("i")
    for level, kind, data in beside:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[:len(data) - len(data) % found.itemsize])
    return list(found)


def _close_all(descriptors: List[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
