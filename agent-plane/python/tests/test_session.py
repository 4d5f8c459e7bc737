"""The core without I/O: frames cut anywhere, credit, late answers, and hostile bytes."""

from __future__ import annotations

import os
import random
import unittest
from typing import Any, Dict, List

import kairo
from kairo import frames, messages, msgpack
from kairo.session import ABANDONED_CALLS, INBOX_ITEMS, Session, release_late

SEED = int(os.environ.get("KAIRO_SEED", os.getpid()))
LIMITS = frames.Limits()


def frame(kind: int, value: Any) -> bytes:
    return frames.encode(kind, msgpack.pack(value), LIMITS)


def answer(number: int, result: Any) -> bytes:
    return frame(frames.RESPONSE, {"id": number, "result": result})


def chunk(name: str, seq: int, size: int = 10, end: bool = False) -> bytes:
    value = {"subscription": name, "stream": "x", "seq": seq, "offset": seq * size,
             "data": bytes(size), "end": end}
    return frame(frames.STREAM_CHUNK, value)


def sent(session: Session) -> List[Dict[str, Any]]:
    """What the session queued, as requests; empties the queue."""
    data, session.outbox = bytes(session.outbox), bytearray()
    decoder = frames.Decoder(LIMITS)
    return [msgpack.unpack(payload) for _, payload in decoder.feed(data)]


def subscribed(session: Session, credit_bytes: Any = None) -> Any:
    call, _ = session.request("watch")
    call.opens, call.credit_bytes = True, credit_bytes
    session.feed(answer(call.number, {"subscription": "s1"}))
    return call.inbox


class Frames(unittest.TestCase):
    def test_frames_cut_anywhere_come_out_whole(self) -> None:
        source = random.Random(SEED)
        whole = b"".join(answer(number, "x" * source.randrange(300)) for number in range(50))
        decoder = frames.Decoder(LIMITS)
        found: List[Any] = []
        while whole:
            count = source.randrange(1, 90)
            found += decoder.feed(whole[:count])
            whole = whole[count:]
        self.assertEqual([msgpack.unpack(payload)["id"] for _, payload in found], list(range(50)))

    def test_a_ping_is_these_bytes(self) -> None:
        made = messages.request("kernel.ping", None, None, 1, LIMITS)
        golden = b"KA\x01\x01\x00\x00\x00\x18\x82\xa2id\x01\xa6method\xabkernel.ping"
        self.assertEqual(made, golden)

    def test_a_wrong_beginning_is_refused_before_the_header_is_whole(self) -> None:
        for data, kind in (
            (b"H", "magic"), (b"KX", "magic"), (b"KA\x02\x01\0\0\0\1", "version"),
            (b"KA\x01\x05\0\0\0\1", "kind"), (b"KA\x01\x02\x00\x10\x00\x01", "too_long"),
            (b"KA\x01\x04\x01\x00\x00\x01", "too_long"),
        ):
            with self.assertRaises(kairo.FrameError) as caught:
                list(frames.Decoder(LIMITS).feed(data))
            self.assertEqual(caught.exception.kind, kind)


class Sessions(unittest.TestCase):
    def test_hostile_bytes_raise_protocol_errors_only_and_end_what_waits(self) -> None:
        source = random.Random(SEED)
        samples = [
            answer(2, {"subscription": "s1"}), chunk("s1", 0), answer(3, [1, 2]),
            frame(frames.RESPONSE, {"id": 3, "result": None, "error": "x",
                                    "error_info": {"code": "E_BUSY", "message": "m"}}),
            frame(frames.EVENT, {"id": "1", "type": "t", "source": "s", "specversion": "1.0",
                                 "time": "now", "data": {}, "seq": 1, "subscription": "s1"}),
        ]
        refused = 0
        for _ in range(5000):
            session = Session()
            call, _ = session.request("a")
            watch, _ = session.request("b")
            watch.opens = True
            data = bytearray(b"".join(source.choice(samples) for _ in range(3)))
            for _ in range(source.randrange(1, 5)):
                data[source.randrange(len(data))] = source.randrange(256)
            try:
                session.feed(bytes(data))
            except kairo.ProtocolError:
                refused += 1
                self.assertTrue(call.done and watch.done, f"KAIRO_SEED={SEED}")
            except BaseException as error:
                self.fail(f"{error!r} for {data.hex()} with KAIRO_SEED={SEED}")
        self.assertGreater(refused, 1000)

    def test_credit_is_topped_up_by_what_was_read(self) -> None:
        session = Session()
        inbox = subscribed(session, 1000)
        frames_in = [chunk("s1", seq, 300) for seq in range(3)]
        session.feed(b"".join(frames_in))
        self.assertEqual(sent(session), [], "nothing was read yet")
        inbox.take()
        self.assertEqual(sent(session), [])
        inbox.take()
        params = {"subscription": "s1", "bytes": len(frames_in[0]) + len(frames_in[1])}
        self.assertEqual(sent(session), [{"method": "stream.credit", "params": params}])

    def test_what_a_late_answer_gives_is_given_back(self) -> None:
        session = Session()
        claim, _ = session.request("device.claim", {"device": "arm"})
        claim.undo = release_late
        watch, _ = session.request("event.subscribe")
        watch.opens = True
        ping, _ = session.request("kernel.ping")
        for call in (claim, watch, ping):
            session.abandon(call)
        session.feed(answer(claim.number, {"device": "arm", "epoch": 7, "ttl_max_ms": 5}))
        session.feed(answer(watch.number, {"subscription": "s9"}))
        session.feed(answer(ping.number, {}))
        self.assertEqual(sent(session), [
            {"method": "device.release", "params": {"device": "arm", "epoch": 7}},
            {"method": "event.unsubscribe", "params": {"subscription": "s9"}},
        ])

    def test_a_claim_that_is_granted_in_the_moment_it_is_given_up_is_given_back(self) -> None:
        session = Session()
        claim, _ = session.request("device.claim", {"device": "arm"})
        claim.undo = release_late
        session.feed(answer(claim.number, {"device": "arm", "epoch": 7}))
        session.abandon(claim)
        self.assertEqual([request["method"] for request in sent(session)], ["device.release"])

    def test_giving_up_is_told_only_where_the_kernel_offers_it(self) -> None:
        for features, methods in (([], []), (["cancel"], ["kernel.cancel"])):
            session = Session()
            hello = session.hello()
            self.assertTrue(hello)
            session.feed(answer(1, {"features": features}))
            call, _ = session.request("slow")
            session.abandon(call)
            self.assertEqual([request["method"] for request in sent(session)], methods)

    def test_an_unread_subscription_is_bounded_and_says_what_happened(self) -> None:
        session = Session()
        inbox = subscribed(session)
        for seq in range(INBOX_ITEMS + 10):
            session.feed(chunk("s1", seq, 1))
        for seq in range(INBOX_ITEMS):
            self.assertEqual(inbox.take().seq, seq)
        with self.assertRaises(kairo.Backlog):
            inbox.take()
        session.feed(chunk("s1", 9999, 1))
        self.assertEqual(inbox.take().seq, 9999)

    def test_given_up_calls_are_bounded(self) -> None:
        session = Session()
        for _ in range(3 * ABANDONED_CALLS):
            call, _ = session.request("slow")
            session.abandon(call)
        self.assertEqual(len(session._abandoned), ABANDONED_CALLS)

    def test_the_last_chunk_ends_the_subscription(self) -> None:
        session = Session()
        inbox = subscribed(session)
        session.feed(chunk("s1", 0, end=True) + chunk("s1", 1))
        self.assertTrue(inbox.take().end)
        self.assertIsNone(inbox.take())
        self.assertTrue(inbox.ended)
        self.assertEqual(session.strays, 1)

    def test_what_cannot_be_encoded_leaves_nothing_behind(self) -> None:
        session = Session()
        with self.assertRaises(kairo.Unencodable):
            session.request("a", {"x": object()})
        with self.assertRaises(kairo.MessageTooLong):
            session.request("a", {"x": "x" * (1 << 20)})
        self.assertEqual(session._pending, {})


if __name__ == "__main__":
    unittest.main()
