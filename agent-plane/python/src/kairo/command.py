"""What both clients send to a device, as plain functions."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, Sequence, Union

from .errors import EndpointError

#: All joints in order, or some by name; rad, or rad/s.
Targets = Union[Mapping[str, float], Sequence[float]]

#: How long a command stays in force unless renewed, ms.
TTL_MS = 500
#: Credit that a subscription begins with, bytes.
CREDIT_BYTES = 256 * 1024
#: How long a call may take, s.
DEADLINE_S = 5.0


def build(
    mode: Optional[str],
    positions: Optional[Targets],
    velocities: Optional[Targets],
    velocity_scale: Optional[float],
    acceleration_rad_s2: Optional[float],
    jerk_rad_s3: Optional[float],
) -> Dict[str, Any]:
    """The ``command`` of ``device.send``. The mode follows from what is given."""
    if mode is None:
        if (positions is None) == (velocities is None):
            raise TypeError("give either positions or velocities")
        mode = "position" if velocities is None else "velocity"
    command: Dict[str, Any] = {"mode": mode}
    for key, targets in (("positions", positions), ("velocities", velocities)):
        if isinstance(targets, Mapping):
            command[key] = {name: float(value) for name, value in targets.items()}
        elif targets is not None:
            command[key] = [float(value) for value in targets]
    for key, number in (
        ("velocity_scale", velocity_scale),
        ("acceleration_rad_s2", acceleration_rad_s2),
        ("jerk_rad_s3", jerk_rad_s3),
    ):
        if number is not None:
            command[key] = float(number)
    return command


def meta(
    given: Optional[Mapping[str, Any]],
    deadline_s: float,
    idempotency_key: Optional[str],
) -> Dict[str, Any]:
    """A request's metadata: the kernel learns how long the caller waits."""
    whole: Dict[str, Any] = {"deadline_ms": max(1, int(deadline_s * 1000))}
    if idempotency_key is not None:
        whole["idempotency_key"] = idempotency_key
    whole.update(given or {})
    return whole


def inherited(variables: Mapping[str, str]) -> Dict[str, Any]:
    """The claim that came with an inherited connection. Raises :class:`kairo.EndpointError`."""
    device, epoch = variables.get("KAIRO_CLAIM_DEVICE"), variables.get("KAIRO_CLAIM_EPOCH", "")
    if not device or not (epoch.isascii() and epoch.isdigit()):
        raise EndpointError(
            "no claim was handed over: start this program with "
            "`kairo device claim DEVICE -- PROGRAM`"
        )
    return {"device": device, "epoch": int(epoch)}


def late(method: str, deadline_s: float) -> str:
    """The words for a deadline that passed."""
    return f"no answer to {method} within {deadline_s * 1000:.0f} ms; it may still take effect"
