"""What can go wrong, as exceptions.

Every exception of this package is a :class:`KairoError`. Two families matter:

- :class:`Refused` and its subclasses, one for each stable error code: the kernel answered, and the
  answer is no. ``code``, ``reason``, ``details``, ``retryable`` and ``retry_after_ms`` are the
  protocol's contract; ``message`` is for people and may change.
- everything else: no answer, or none that could be understood. :class:`ConnectionLost` says with
  ``may_have_happened`` whether the request may have taken effect.

``except TimeoutError`` catches both ways of being late: the kernel's (:class:`Timeout`) and this
side's (:class:`DeadlineExceeded`).
"""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, Type


class KairoError(Exception):
    """Anything that this package raises on purpose."""


class EndpointError(KairoError, ValueError):
    """The environment or the argument names no usable socket."""


class CannotConnect(KairoError, OSError):
    """Nobody answers at the endpoint."""


class ConnectionLost(KairoError, ConnectionError):
    """The connection ended.

    ``may_have_happened`` is true when the request was handed to the machine's kernel in part or in
    whole, so that it may have taken effect. Such a request is never sent again without being told.
    """

    def __init__(self, message: str, may_have_happened: bool = False) -> None:
        super().__init__(message)
        self.may_have_happened = may_have_happened


class DeadlineExceeded(KairoError, TimeoutError):
    """No answer in time. The request may still take effect."""


class ProtocolError(KairoError):
    """The peer does not speak the protocol. The connection is of no further use."""


class FrameError(ProtocolError):
    """A frame header that cannot be accepted.

    ``kind`` is ``magic``, ``version``, ``kind`` or ``too_long``.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Malformed(ProtocolError):
    """A payload that is not acceptable MsgPack.

    ``kind`` is ``truncated``, ``length``, ``depth``, ``values``, ``utf8``, ``marker``,
    ``trailing`` or ``key``; ``at`` is the byte at which it shows.
    """

    def __init__(self, kind: str, at: int, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.at = at


class WrongShape(ProtocolError):
    """Acceptable MsgPack, and not the message that it should be."""


class Unencodable(KairoError, ValueError):
    """A value that the protocol cannot carry."""


class MessageTooLong(KairoError, ValueError):
    """A request beyond the limit. Nothing was sent."""


class Backlog(KairoError):
    """The program reads a subscription too slowly: what came after is lost."""


class Refused(KairoError):
    """The kernel answered with an error.

    Codes that this version does not know are of this class itself, with their ``code`` kept.
    """

    #: The stable code, as in ``"E_BUSY"``.
    code: str = "E_INTERNAL"

    def __init__(
        self,
        message: str,
        details: Optional[Mapping[str, Any]] = None,
        retryable: bool = False,
        retry_after_ms: Optional[int] = None,
        code: Optional[str] = None,
        method: Optional[str] = None,
    ) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        #: Readable text.
        self.message = message
        #: Facts for programs.
        self.details: Dict[str, Any] = dict(details or {})
        #: Whether the same request can succeed later without anything being changed.
        self.retryable = retryable
        #: When to try again, ms; None where that is not known.
        self.retry_after_ms = retry_after_ms
        #: The method that was called.
        self.method = method

    @property
    def reason(self) -> str:
        """The stable cause within the code, ``details["reason"]``; empty where there is none."""
        reason = self.details.get("reason")
        return reason if isinstance(reason, str) else ""

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


class InvalidRequest(Refused):
    """Not a request of this protocol."""

    code = "E_INVALID_REQUEST"


class InvalidParams(Refused):
    """A parameter is missing, unknown or wrong. Also raised here, before anything is sent."""

    code = "E_INVALID_PARAMS"


class NotFound(Refused):
    """No such thing: ``unknown_method``, ``unknown_device``, …"""

    code = "E_NOT_FOUND"


class PermissionDenied(Refused):
    """The caller may not."""

    code = "E_PERMISSION_DENIED"


class Busy(Refused):
    """Somebody else has it; ``details["holder"]`` says who."""

    code = "E_BUSY"


class Timeout(Refused, TimeoutError):
    """The kernel did not get it done in time."""

    code = "E_TIMEOUT"


class Limit(Refused):
    """A value or an amount is out of range."""

    code = "E_LIMIT"


class Unsupported(Refused):
    """Known, and not offered here."""

    code = "E_UNSUPPORTED"


class Canceled(Refused):
    """Withdrawn."""

    code = "E_CANCELED"


class Conflict(Refused):
    """The state has moved on, or forbids it."""

    code = "E_CONFLICT"


class Unavailable(Refused):
    """Something that it needs is away."""

    code = "E_UNAVAILABLE"


class Internal(Refused):
    """A bug of the system, not of the caller."""

    code = "E_INTERNAL"


#: The class of each code that this version knows.
BY_CODE: Dict[str, Type[Refused]] = {
    kind.code: kind
    for kind in (
        InvalidRequest, InvalidParams, NotFound, PermissionDenied, Busy, Timeout, Limit,
        Unsupported, Canceled, Conflict, Unavailable, Internal,
    )
}


def refusal(info: Any, text: Optional[str], method: Optional[str]) -> Refused:
    """The exception for a response's ``error_info``, or for its bare ``error`` text.

    Raises :class:`WrongShape` when ``info`` is not what the protocol says.
    """
    if info is None:
        return Internal(text or "an error without words", method=method)
    if not isinstance(info, dict):
        raise WrongShape(f"error_info is {type(info).__name__}, expected a map")
    code, message = info.get("code"), info.get("message")
    details, after = info.get("details"), info.get("retry_after_ms")
    if not isinstance(code, str) or not isinstance(message, str):
        raise WrongShape("error_info needs the texts `code` and `message`")
    if details is not None and not isinstance(details, dict):
        raise WrongShape("error_info.details is not a map")
    if after is not None and (not isinstance(after, int) or isinstance(after, bool)):
        raise WrongShape("error_info.retry_after_ms is not a whole number")
    retryable = info.get("retryable", False) is True
    known = BY_CODE.get(code, Refused)
    return known(message, details, retryable, after, code, method)
