"""KairoOS from Python: call methods, watch devices and events, claim and command devices.

    import kairo

    with kairo.Client() as client:
        print(client.call("device.list"))
        with client.claim("arm") as arm:
            arm.send({"elbow_flex": -0.2}, ttl_ms=500)

:class:`kairo.Client` blocks, with a deadline for every call; :class:`kairo.aio.Client` is the same
for asyncio. Both are thin over one core without I/O. No dependencies, no compiled parts.
"""

from __future__ import annotations

from .claim import Claim
from .client import Client, Subscription
from .endpoint import Endpoint
from .errors import (
    Backlog, Busy, Canceled, CannotConnect, Conflict, ConnectionLost, DeadlineExceeded,
    EndpointError, FrameError, Internal, InvalidParams, InvalidRequest, KairoError, Limit,
    Malformed, MessageTooLong, NotFound, PermissionDenied, ProtocolError, Refused, Timeout,
    Unavailable, Unencodable, Unsupported, WrongShape,
)
from .introspection import Method
from .messages import Asked, Chunk, Event, Gap
from .sealed import Sealed
from .service import Service, Stream

__version__ = "0.1.0"

__all__ = [
    "Asked", "Backlog", "Busy", "Canceled", "CannotConnect", "Chunk", "Claim", "Client",
    "Conflict", "ConnectionLost", "DeadlineExceeded", "Endpoint", "EndpointError", "Event",
    "FrameError", "Gap", "Internal", "InvalidParams", "InvalidRequest", "KairoError", "Limit",
    "Malformed", "MessageTooLong", "Method", "NotFound", "PermissionDenied", "ProtocolError",
    "Refused", "Sealed", "Service", "Stream", "Subscription", "Timeout", "Unavailable",
    "Unencodable", "Unsupported", "WrongShape",
]
