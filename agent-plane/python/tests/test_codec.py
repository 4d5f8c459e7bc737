"""The codec: vectors, limits, and bytes that mean harm."""

from __future__ import annotations

import os
import pathlib
import random
import tracemalloc
import unittest

import vectors
from kairo import Malformed, Unencodable, msgpack

VECTORS = pathlib.Path(__file__).parents[2] / "conformance" / "msgpack-vectors.jsonl"
#: Differs from run to run, and is shown when something fails.
SEED = int(os.environ.get("KAIRO_SEED", os.getpid()))


class Codec(unittest.TestCase):
    def test_agrees_with_the_kernels_codec_on_the_checked_in_vectors(self) -> None:
        lines = VECTORS.read_text(encoding="utf-8").splitlines()
        self.assertGreater(len(lines), 500)
        for line in lines:
            vectors.check_line(line)

    def test_every_value_survives_the_round_trip_in_its_shortest_form(self) -> None:
        source = random.Random(SEED)
        for _ in range(2000):
            value = vectors.made(source, 3)
            again = msgpack.unpack(msgpack.pack(value))
            self.assertEqual(msgpack.pack(again), msgpack.pack(value), f"KAIRO_SEED={SEED}")

    def test_numbers_take_the_shortest_form_at_every_edge(self) -> None:
        sizes = {
            0: 1, 127: 1, 128: 2, 255: 2, 256: 3, 65535: 3, 65536: 5, 2**32 - 1: 5, 2**32: 9,
            2**64 - 1: 9, -1: 1, -32: 1, -33: 2, -128: 2, -129: 3, -32768: 3, -32769: 5,
            -2**31: 5, -2**31 - 1: 9, -2**63: 9,
        }
        for number, size in sizes.items():
            self.assertEqual(len(msgpack.pack(number)), size, number)
            self.assertEqual(msgpack.unpack(msgpack.pack(number)), number)

    def test_nothing_but_malformed_is_raised_whatever_the_bytes_are(self) -> None:
        source = random.Random(SEED)
        for _ in range(20_000):
            payload = bytearray(source.randbytes(source.randrange(60)))
            if source.randrange(2):
                payload = bytearray(msgpack.pack(vectors.made(source, 3)))
                for _ in range(source.randrange(4)):
                    payload[source.randrange(len(payload))] = source.randrange(256)
                del payload[source.randrange(len(payload) + 1):]
            try:
                msgpack.unpack(bytes(payload))
            except Malformed as error:
                self.assertLessEqual(error.at, len(payload))
            except BaseException as error:
                self.fail(f"{error!r} for {payload.hex()} with KAIRO_SEED={SEED}")

    def test_a_length_that_lies_allocates_nothing(self) -> None:
        bombs = ["ddffffffff", "dfffffffff01", "db7fffffff78", "c6ffffffff00", "dcffff" + "dcffff"]
        # A container in a container, each claiming all that is left.
        bombs.append("91" * 60 + "dd00ffffff" + "00" * 8)
        tracemalloc.start()
        try:
            for bomb in bombs:
                payload = bytes.fromhex(bomb)
                before = tracemalloc.get_traced_memory()[0]
                tracemalloc.reset_peak()
                with self.assertRaises(Malformed):
                    msgpack.unpack(payload)
                peak = tracemalloc.get_traced_memory()[1] - before
                self.assertLess(peak, 1_000_000, bomb)
        finally:
            tracemalloc.stop()

    def test_depth_and_number_of_values_are_bounded(self) -> None:
        self.assertIsNotNone(msgpack.unpack(b"\x91" * 64 + b"\xc0"))
        with self.assertRaises(Malformed) as deep:
            msgpack.unpack(b"\x91" * 65 + b"\xc0")
        self.assertEqual((deep.exception.kind, deep.exception.at), ("depth", 64))
        many = b"\xdd\x00\x00\xff\xff" + b"\xc0" * 65_535
        self.assertEqual(len(msgpack.unpack(many)), 65_535)
        with self.assertRaises(Malformed) as crowd:
            msgpack.unpack(b"\xdd\x00\x01\x00\x00" + b"\xc0" * 65_536)
        self.assertEqual(crowd.exception.kind, "values")

    def test_what_the_protocol_cannot_carry_is_not_sent(self) -> None:
        within: list = []
        within.append(within)
        for value in (2**64, -2**63 - 1, {1, 2}, object(), "\ud800", within, [None] * 70_000):
            with self.assertRaises(Unencodable):
                msgpack.pack(value)

    def test_extension_types_and_containers_as_keys_are_refused(self) -> None:
        for payload, kind in (
            (b"\xd4\x01\x00", "marker"), (b"\xc7\x01\x01\x00", "marker"), (b"\xc1", "marker"),
            (b"\x81\x90\xc0", "key"), (b"\xc0\xc0", "trailing"), (b"\xa1\xff", "utf8"),
            (b"", "truncated"), (b"\xa3\xed\xa0\x80", "utf8"),
        ):
            with self.assertRaises(Malformed) as caught:
                msgpack.unpack(payload)
            self.assertEqual(caught.exception.kind, kind)


if __name__ == "__main__":
    unittest.main()
