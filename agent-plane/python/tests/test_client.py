"""Both clients against a scripted kernel: reconnecting, giving up, claims, inheriting."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
import unittest
from typing import Any, Awaitable, Callable, Dict

import kairo
import kairo.aio
from kairo import frames, msgpack
from server import HANG_UP, PATIENCE_S, SILENCE, Kernel, response

Request = Dict[str, Any]


def hangs_up_first(times: int) -> Callable[[Request], Any]:
    """Answers with the number of tries, after hanging up on the first ``times``."""
    tries = 0

    def answer(_: Request) -> Any:
        nonlocal tries
        tries += 1
        return HANG_UP if tries <= times else tries

    return answer


def claims(request: Request) -> Any:
    if request["method"] == "device.claim":
        return {"device": "arm", "epoch": 7, "ttl_max_ms": 1000}
    return HANG_UP if request["method"] == "die" else {"ok": True}


class Blocking(unittest.TestCase):
    def test_a_request_that_may_have_happened_is_not_sent_again(self) -> None:
        with Kernel(hangs_up_first(1)) as kernel, kairo.Client(kernel.path) as client:
            with self.assertRaises(kairo.ConnectionLost) as caught:
                client.call("device.send")
            self.assertTrue(caught.exception.may_have_happened)
            self.assertEqual(kernel.methods(), ["device.send"])
            # The next call makes the next connection.
            self.assertEqual(client.call("kernel.ping", deadline_s=PATIENCE_S), 2)
            self.assertEqual(kernel.connections, 2)

    def test_a_request_that_says_it_may_be_repeated_is(self) -> None:
        for options in ({"idempotent": True}, {"idempotency_key": "k"}):
            with Kernel(hangs_up_first(2)) as kernel, kairo.Client(kernel.path) as client:
                self.assertEqual(client.call("a", deadline_s=PATIENCE_S, **options), 3)
                self.assertEqual(kernel.methods(), ["a", "a", "a"])
                key = kernel.requests[2]["meta"].get("idempotency_key")
                self.assertEqual(key, options.get("idempotency_key"))

    def test_a_repeated_request_ends_at_its_deadline(self) -> None:
        with Kernel(lambda _: HANG_UP) as kernel, kairo.Client(kernel.path) as client:
            with self.assertRaises((kairo.ConnectionLost, kairo.DeadlineExceeded)):
                client.call("a", idempotent=True, deadline_s=0.3)

    def test_a_connection_that_ended_unnoticed_costs_nothing(self) -> None:
        with Kernel(claims) as kernel, kairo.Client(kernel.path) as client:
            client.notify("die")
            while client._link.is_open:
                client._link.pump(float("inf"))
            self.assertEqual(client.call("a", deadline_s=PATIENCE_S), {"ok": True})

    def test_without_reconnect_the_end_is_the_end(self) -> None:
        with Kernel(hangs_up_first(1)) as kernel:
            with kairo.Client(kernel.path, reconnect=False) as client:
                for _ in range(2):
                    with self.assertRaises(kairo.ConnectionLost):
                        client.call("a", idempotent=True)
            self.assertEqual(kernel.connections, 1)

    def test_a_closed_client_says_so(self) -> None:
        with Kernel(claims) as kernel:
            client = kairo.Client(kernel.path)
            client.close()
            client.close()
            with self.assertRaises(kairo.ConnectionLost):
                client.call("a")

    def test_a_claim_carries_its_epoch_and_is_released_at_the_end(self) -> None:
        with Kernel(claims) as kernel, kairo.Client(kernel.path) as client:
            with client.claim("agent://device/arm") as arm:
                self.assertEqual((arm.device, arm.epoch, arm.ttl_max_ms), ("arm", 7, 1000))
                arm.send({"elbow_flex": 1}, velocity_scale=0.5, ttl_ms=300)
                arm.send(velocities=[1, 2])
                arm.stop()
            commands = [request["params"].get("command") for request in kernel.requests]
            self.assertEqual(commands, [
                None,
                {"mode": "position", "positions": {"elbow_flex": 1.0}, "velocity_scale": 0.5},
                {"mode": "velocity", "velocities": [1.0, 2.0]}, {"mode": "stop"}, None,
            ])
            self.assertEqual(kernel.requests[1]["params"]["ttl_ms"], 300)
            self.assertEqual(kernel.requests[-1]["method"], "device.release")
            self.assertEqual(kernel.requests[-1]["params"], {"device": "arm", "epoch": 7})

    def test_a_claim_does_not_outlive_its_connection(self) -> None:
        with Kernel(claims) as kernel, kairo.Client(kernel.path) as client:
            with client.claim("arm") as arm:
                with self.assertRaises(kairo.ConnectionLost):
                    client.call("die")
                client.call("a", deadline_s=PATIENCE_S)
                with self.assertRaises(kairo.ConnectionLost) as caught:
                    arm.send({"elbow_flex": 1})
                self.assertFalse(caught.exception.may_have_happened)
            # Nothing of it was sent on the new connection, not even its release.
            self.assertEqual(kernel.methods(), ["device.claim", "die", "a"])

    def test_an_error_inside_a_claim_is_not_hidden_by_its_release(self) -> None:
        with Kernel(claims) as kernel, kairo.Client(kernel.path) as client:
            with self.assertRaises(ZeroDivisionError), client.claim("arm"):
                client._link.close()
                raise ZeroDivisionError

    def test_a_claim_granted_too_late_is_given_back(self) -> None:
        held = []

        def answer(request: Request) -> Any:
            if request["method"] == "device.claim":
                held.append(request["id"])
                return SILENCE
            if request["method"] == "a":
                granted = response(held[0], {"device": "arm", "epoch": 7})
                return granted + response(request["id"], "a")
            return "ok"

        with Kernel(answer) as kernel, kairo.Client(kernel.path) as client:
            # Its answer comes after that of hello, so the features are known.
            client.call("first")
            with self.assertRaises(kairo.DeadlineExceeded):
                client.claim("arm", deadline_s=0.1)
            self.assertEqual(client.call("a"), "a")
            self.assertEqual(client.call("b"), "ok")
            self.assertEqual(
                kernel.methods(),
                ["first", "device.claim", "kernel.cancel", "a", "device.release", "b"],
            )

    def test_a_kernel_that_does_not_read_until_it_is_read_blocks_nobody(self) -> None:
        ours, theirs = socket.socketpair()
        wanted = 4 * 1024 * 1024

        def serve() -> None:
            # Sends more than the socket holds before it reads a byte.
            chunk: Request = {"subscription": "s", "stream": "x", "seq": 0, "offset": 0}
            chunk["data"] = bytes(wanted)
            theirs.sendall(frames.encode(4, msgpack.pack(chunk), frames.Limits()))
            decoder = frames.Decoder(frames.Limits())
            while True:
                for _, payload in decoder.feed(theirs.recv(65536)):
                    request = msgpack.unpack(payload)
                    theirs.sendall(response(request["id"], len(payload)))
                    if request["method"] == "big":
                        return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with inherited(ours):
            client = kairo.Client(deadline_s=PATIENCE_S)
        with client:
            self.assertGreater(client.call("big", {"x": "x" * 900_000}), 900_000)
        thread.join(PATIENCE_S)
        theirs.close()

    def test_two_threads_in_one_client_are_refused(self) -> None:
        asked, answer = threading.Event(), threading.Event()

        def slow(_: Request) -> Any:
            asked.set()
            answer.wait(PATIENCE_S)
            return "late"

        results = []
        with Kernel(slow) as kernel, kairo.Client(kernel.path, deadline_s=PATIENCE_S) as client:
            thread = threading.Thread(target=lambda: results.append(client.call("a")))
            thread.start()
            self.assertTrue(asked.wait(PATIENCE_S))
            with self.assertRaises(RuntimeError):
                client.call("b")
            answer.set()
            thread.join(PATIENCE_S)
        self.assertEqual(results, ["late"])

    def test_the_kernel_learns_how_long_the_caller_waits(self) -> None:
        with Kernel(claims) as kernel, kairo.Client(kernel.path, deadline_s=7.0) as client:
            client.call("a", meta={"correlation_id": "c"})
            client.call("a", deadline_s=0.25)
            metas = [request["meta"] for request in kernel.requests]
            self.assertEqual(metas, [{"deadline_ms": 7000, "correlation_id": "c"},
                                     {"deadline_ms": 250}])


class inherited:
    """Names a socket as KAIRO_IPC_FD, as a parent process would."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream

    def __enter__(self) -> None:
        from kairo import endpoint
        endpoint._taken = False
        os.environ["KAIRO_IPC_FD"] = str(self.stream.detach())

    def __exit__(self, *_: object) -> None:
        del os.environ["KAIRO_IPC_FD"]


class Inherited(unittest.TestCase):
    def test_a_child_takes_the_connection_of_its_parent_once_and_does_not_leak_it(self) -> None:
        program = (
            "import kairo, os\n"
            "client = kairo.Client()\n"
            "assert not os.get_inheritable(client._link.stream.fileno())\n"
            "print(client.call('a'))\n"
            "try: kairo.Client()\n"
            "except kairo.CannotConnect as error: print('once')\n"
        )
        with Kernel(lambda _: 42) as kernel, socket.socket(socket.AF_UNIX) as stream:
            stream.connect(kernel.path)
            number = stream.fileno()
            output = subprocess.run(
                [sys.executable, "-c", program], pass_fds=[number], stdout=subprocess.PIPE,
                env=dict(os.environ, KAIRO_IPC_FD=str(number)), timeout=PATIENCE_S, check=True,
            )
            self.assertEqual(output.stdout.split(), [b"42", b"once"])
            self.assertEqual(kernel.connections, 1)


    def test_a_claim_that_was_handed_over_is_used_with_its_epoch(self) -> None:
        program = (
            "import kairo\n"
            "with kairo.Client() as client, client.inherited_claim() as arm:\n"
            "    print(arm.device, arm.epoch); arm.stop()\n"
        )
        with Kernel(claims) as kernel, socket.socket(socket.AF_UNIX) as stream:
            stream.connect(kernel.path)
            number = stream.fileno()
            handed = dict(os.environ, KAIRO_IPC_FD=str(number))
            handed.update(KAIRO_CLAIM_DEVICE="arm", KAIRO_CLAIM_EPOCH="9")
            output = subprocess.run(
                [sys.executable, "-c", program], pass_fds=[number], stdout=subprocess.PIPE,
                env=handed, timeout=PATIENCE_S, check=True,
            )
            self.assertEqual(output.stdout.split(), [b"arm", b"9"])
            self.assertEqual(kernel.methods(), ["device.send", "device.release"])
            self.assertEqual(kernel.requests[0]["params"]["epoch"], 9)
            with kairo.Client(kernel.path) as client, self.assertRaises(kairo.EndpointError):
                client.inherited_claim()


def with_client(
    answer: Callable[[Request], Any],
    body: Callable[[Kernel, kairo.aio.Client], Awaitable[None]],
) -> None:
    """Runs ``body`` with an asyncio client of a scripted kernel."""

    async def main(kernel: Kernel) -> None:
        async with kairo.aio.Client(kernel.path, deadline_s=PATIENCE_S) as client:
            await body(kernel, client)

    with Kernel(answer) as kernel:
        asyncio.run(main(kernel))


class Asyncio(unittest.TestCase):
    def test_a_request_that_may_have_happened_is_not_sent_again(self) -> None:
        async def body(kernel: Kernel, client: kairo.aio.Client) -> None:
            with self.assertRaises(kairo.ConnectionLost) as caught:
                await client.call("device.send")
            self.assertTrue(caught.exception.may_have_happened)
            self.assertEqual(await client.call("kernel.ping"), 2)
            self.assertEqual(kernel.methods(), ["device.send", "kernel.ping"])

        with_client(hangs_up_first(1), body)

    def test_a_request_that_says_it_may_be_repeated_is(self) -> None:
        async def body(kernel: Kernel, client: kairo.aio.Client) -> None:
            self.assertEqual(await client.call("a", idempotent=True), 3)

        with_client(hangs_up_first(2), body)

    def test_many_calls_after_an_end_share_one_new_connection(self) -> None:
        async def body(kernel: Kernel, client: kairo.aio.Client) -> None:
            with self.assertRaises(kairo.ConnectionLost):
                await client.call("die")
            await asyncio.gather(*[client.call("a") for _ in range(20)])
            self.assertEqual(kernel.connections, 2)

        with_client(claims, body)

    def test_a_cancelled_call_tells_the_kernel_and_leaves_the_connection_usable(self) -> None:
        async def body(kernel: Kernel, client: kairo.aio.Client) -> None:
            # Its answer comes after that of hello, so the features are known.
            await client.call("first")
            call = asyncio.ensure_future(client.call("slow"))
            while "slow" not in kernel.methods():
                await asyncio.sleep(0.01)
            call.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await call
            self.assertEqual(await client.call("after"), "after")
            cancel = kernel.requests[2]
            self.assertEqual(cancel["method"], "kernel.cancel")
            self.assertEqual(cancel["params"], {"id": kernel.requests[1]["id"]})

        with_client(lambda request: SILENCE if request["method"] == "slow" else request["method"],
                    body)

    def test_no_cancellation_is_lost_whenever_it_comes(self) -> None:
        async def body(kernel: Kernel, client: kairo.aio.Client) -> None:
            await client.open()
            for turns in range(8):
                call = asyncio.ensure_future(client.call("slow"))
                for _ in range(turns):
                    await asyncio.sleep(0)
                call.cancel()
                with self.assertRaises(asyncio.CancelledError):
                    await call

        with_client(lambda _: SILENCE, body)

    def test_a_claim_carries_its_epoch_and_is_released_at_the_end(self) -> None:
        async def body(kernel: Kernel, client: kairo.aio.Client) -> None:
            async with client.claim("arm") as arm:
                await arm.send([0.1, 0.2])
            self.assertEqual(
                kernel.methods(), ["device.claim", "device.send", "device.release"]
            )
            self.assertEqual(kernel.requests[1]["params"]["epoch"], 7)
            arm = await client.claim("arm")
            with self.assertRaises(kairo.ConnectionLost):
                await client.call("die")
            with self.assertRaises(kairo.ConnectionLost):
                await arm.stop()

        with_client(claims, body)

    def test_the_end_of_the_connection_reaches_who_waits_for_items(self) -> None:
        def answer(request: Request) -> Any:
            return {"subscription": "s1"} if request["method"] == "watch" else HANG_UP

        async def body(kernel: Kernel, client: kairo.aio.Client) -> None:
            async with await client.subscribe("watch") as items:
                waiting = asyncio.ensure_future(items.next(None))
                await asyncio.sleep(0)
                with self.assertRaises(kairo.ConnectionLost):
                    await client.call("a")
                with self.assertRaises(kairo.ConnectionLost):
                    await waiting

        with_client(answer, body)


if __name__ == "__main__":
    unittest.main()
