"""A claimed device, for the blocking client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping, Optional

from . import command
from .errors import ConnectionLost, KairoError, Refused
from .link import Link

if TYPE_CHECKING:
    from .client import Client


class Claim:
    """A device that this connection may command. ``with`` releases it at its end."""

    def __init__(
        self, client: "Client", link: Link, device: str, granted: Mapping[str, Any]
    ) -> None:
        self._client = client
        self._link = link
        #: The device's id.
        self.device: str = granted.get("device", device)
        #: The fencing token that every command carries.
        self.epoch: int = granted["epoch"]
        #: Longest time to live of a command, ms.
        self.ttl_max_ms: Optional[int] = granted.get("ttl_max_ms")

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, kind: Optional[type], *_: object) -> None:
        try:
            self.release()
        except KairoError as error:
            # It may have ended by itself; and what went wrong inside is worth more than this.
            if kind is None and not isinstance(error, (ConnectionLost, Refused)):
                raise

    def send(
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
        """Commands positions (rad) or velocities (rad/s): all joints in order, or some by name.

        The command is in force for ``ttl_ms`` milliseconds; then the device takes its safe action,
        so renew it in time. Gives ``{sequence, tick, applied_ns, expires_ns}``.

        Raises as :meth:`Client.call`: :class:`kairo.Limit` names joint, value and bounds,
        :class:`kairo.Conflict` or :class:`kairo.PermissionDenied` say that the claim has ended.
        """
        built = command.build(
            None, positions, velocities, velocity_scale, acceleration_rad_s2, jerk_rad_s3
        )
        return self._send(built, ttl_ms, deadline_s)

    def stop(self, *, ttl_ms: int = command.TTL_MS) -> Any:
        """Slows down as fast as the limits allow, and holds. Raises as :meth:`send`."""
        return self._send({"mode": "stop"}, ttl_ms, None)

    def reset(self) -> Any:
        """Clears a latched fault; moves nothing. Raises as :meth:`send`."""
        return self._send({"mode": "reset"}, command.TTL_MS, None)

    def release(self) -> None:
        """Gives the claim back; the device takes its safe action. Raises as :meth:`Client.call`."""
        self._check()
        self._client.call("device.release", {"device": self.device, "epoch": self.epoch})

    def _send(self, built: Mapping[str, Any], ttl_ms: int, deadline_s: Optional[float]) -> Any:
        self._check()
        params = {
            "device": self.device, "epoch": self.epoch, "command": built, "ttl_ms": ttl_ms,
        }
        return self._client.call("device.send", params, deadline_s=deadline_s)

    def _check(self) -> None:
        """A claim ends with its connection; another connection cannot use it."""
        if self._client._link is not self._link or not self._link.is_open:
            text = f"the claim of {self.device!r} ended with its connection; claim it again"
            raise ConnectionLost(text)
