"""Drives a Python client for the conformance suite (agent-plane/conformance/README.md).

    python3 conformance_driver.py sync|asyncio

reads one action a line from standard input, performs it, and writes one outcome a line. What the
outcomes should be is none of its business: the suite's cases say.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, Awaitable, Callable, Dict

import kairo
import kairo.aio

#: Binary data longer than this is reported by its length.
SHOWN_BYTES = 64 * 1024

FAILURES = (
    (kairo.DeadlineExceeded, "deadline"),
    (kairo.ConnectionLost, "closed"),
    (kairo.CannotConnect, "unreachable"),
    (kairo.ProtocolError, "protocol"),
    (kairo.MessageTooLong, "too_long"),
    (kairo.Unencodable, "unencodable"),
    (kairo.Backlog, "backlog"),
)


def shown(value: Any) -> Any:
    """A value as JSON, with binary data tagged."""
    if isinstance(value, bytes):
        if len(value) > SHOWN_BYTES:
            return {"$bin_length": len(value)}
        return {"$bin": value.hex()}
    if isinstance(value, list):
        return [shown(item) for item in value]
    if isinstance(value, dict):
        return {str(key): shown(item) for key, item in value.items()}
    return value


def failure(error: kairo.KairoError) -> Dict[str, Any]:
    """An exception as an outcome."""
    if isinstance(error, kairo.Refused):
        told = {
            "code": error.code, "message": error.message, "details": shown(error.details),
            "retryable": error.retryable, "class": type(error).__name__,
        }
        if error.retry_after_ms is not None:
            told["retry_after_ms"] = error.retry_after_ms
        return {"error": told}
    for kind, name in FAILURES:
        if isinstance(error, kind):
            return {"failed": name, "message": str(error)}
    return {"failed": type(error).__name__, "message": str(error)}


def delivered(item: Any) -> Dict[str, Any]:
    """What a subscription gave as an outcome."""
    if item is None:
        return {"end": True}
    if isinstance(item, kairo.Event):
        told = vars(item).items()
        fields = {key: value for key, value in told if value is not None or key == "data"}
        fields["type"] = fields.pop("topic")
        return {"event": shown(fields)}
    fields = {key: value for key, value in vars(item).items() if key != "attached"}
    gap = fields.pop("gap")
    if gap is not None:
        fields["gap"] = {"from": gap.start, "to": gap.end}
    return {"chunk": shown(fields)}


def call_options(action: Dict[str, Any]) -> Dict[str, Any]:
    """The keyword arguments of ``call()``."""
    options: Dict[str, Any] = {"meta": action.get("meta")}
    if "deadline_ms" in action:
        options["deadline_s"] = action["deadline_ms"] / 1000
    return options


class Sync:
    """The blocking client."""

    def __init__(self) -> None:
        self.clients: Dict[str, kairo.Client] = {}
        self.subscriptions: Dict[str, kairo.Subscription] = {}

    def perform(self, action: Dict[str, Any]) -> Dict[str, Any]:
        try:
            return getattr(self, "do_" + action["do"])(action) or {"ok": True}
        except kairo.KairoError as error:
            return failure(error)

    def do_open(self, action: Dict[str, Any]) -> None:
        self.clients[action["client"]] = kairo.Client(action["socket"], reconnect=False)

    def do_close(self, action: Dict[str, Any]) -> None:
        self.clients.pop(action["client"]).close()

    def do_call(self, action: Dict[str, Any]) -> Dict[str, Any]:
        client = self.clients[action["client"]]
        method, params = action["method"], action.get("params")
        return {"result": shown(client.call(method, params, **call_options(action)))}

    def do_notify(self, action: Dict[str, Any]) -> None:
        self.clients[action["client"]].notify(action["method"], action.get("params"))

    def do_subscribe(self, action: Dict[str, Any]) -> Dict[str, Any]:
        client = self.clients[action["client"]]
        subscription = client.subscribe(
            action["method"], action.get("params"), credit_bytes=action.get("top_up_bytes")
        )
        self.subscriptions[action["as"]] = subscription
        return {"result": shown(subscription.reply)}

    def do_next(self, action: Dict[str, Any]) -> Dict[str, Any]:
        return delivered(self.subscriptions[action["of"]].next(action["deadline_ms"] / 1000))

    def do_reset(self, _: Dict[str, Any]) -> None:
        for client in self.clients.values():
            client.close()
        self.clients, self.subscriptions = {}, {}


class Asyncio:
    """The asyncio client, in a loop that turns for one action at a time."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.clients: Dict[str, kairo.aio.Client] = {}
        self.subscriptions: Dict[str, kairo.aio.Subscription] = {}

    def perform(self, action: Dict[str, Any]) -> Dict[str, Any]:
        return self.loop.run_until_complete(self.one(action))

    async def one(self, action: Dict[str, Any]) -> Dict[str, Any]:
        try:
            verb: Callable[[Dict[str, Any]], Awaitable[Any]] = getattr(self, "do_" + action["do"])
            return await verb(action) or {"ok": True}
        except kairo.KairoError as error:
            return failure(error)

    async def do_open(self, action: Dict[str, Any]) -> None:
        client = kairo.aio.Client(action["socket"], reconnect=False)
        self.clients[action["client"]] = await client.open()

    async def do_close(self, action: Dict[str, Any]) -> None:
        await self.clients.pop(action["client"]).close()

    async def do_call(self, action: Dict[str, Any]) -> Dict[str, Any]:
        client = self.clients[action["client"]]
        method, params = action["method"], action.get("params")
        return {"result": shown(await client.call(method, params, **call_options(action)))}

    async def do_together(self, action: Dict[str, Any]) -> Dict[str, Any]:
        calls = [self.one(dict(call, do="call")) for call in action["calls"]]
        return {"outcomes": await asyncio.gather(*calls)}

    async def do_cancel(self, action: Dict[str, Any]) -> Dict[str, Any]:
        client = self.clients[action["client"]]
        call = asyncio.ensure_future(client.call(action["method"], action.get("params")))
        await asyncio.sleep(action["after_ms"] / 1000)
        call.cancel()
        try:
            return {"result": shown(await call)}
        except asyncio.CancelledError:
            return {"cancelled": True}

    async def do_notify(self, action: Dict[str, Any]) -> None:
        await self.clients[action["client"]].notify(action["method"], action.get("params"))

    async def do_subscribe(self, action: Dict[str, Any]) -> Dict[str, Any]:
        client = self.clients[action["client"]]
        subscription = await client.subscribe(
            action["method"], action.get("params"), credit_bytes=action.get("top_up_bytes")
        )
        self.subscriptions[action["as"]] = subscription
        return {"result": shown(subscription.reply)}

    async def do_next(self, action: Dict[str, Any]) -> Dict[str, Any]:
        subscription = self.subscriptions[action["of"]]
        return delivered(await subscription.next(action["deadline_ms"] / 1000))

    async def do_reset(self, _: Dict[str, Any]) -> None:
        for client in self.clients.values():
            await client.close()
        self.clients, self.subscriptions = {}, {}


def main() -> None:
    driver = Sync() if sys.argv[1] == "sync" else Asyncio()
    for line in sys.stdin:
        print(json.dumps(driver.perform(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
