"""Compares this package's codec with vectors of another's.

    python3 vectors.py check   # vectors from standard input: does this codec agree?
    python3 vectors.py make    # "SEED COUNT" from standard input: vectors of this codec

A vector is one line of JSON: ``{"hex", "value"}`` or ``{"hex", "verdict"}``. Floats are written by
their bits (``$f64``) and binary data as ``$bin``, so that JSON loses nothing.
"""

from __future__ import annotations

import json
import random
import struct
import sys
from typing import Any

from kairo import Malformed, msgpack

#: The number of values that verdicts are for.
VALUES = 80


def tagged(value: Any) -> Any:
    """A value as JSON that loses nothing."""
    if isinstance(value, float):
        return {"$f64": struct.pack(">d", value).hex()}
    if isinstance(value, bytes):
        return {"$bin": value.hex()}
    if isinstance(value, list):
        return [tagged(item) for item in value]
    if isinstance(value, dict):
        return {key: tagged(item) for key, item in value.items()}
    return value


def check_line(line: str) -> None:
    """Raises AssertionError where this codec disagrees."""
    vector = json.loads(line)
    payload = bytes.fromhex(vector["hex"])
    if "verdict" in vector:
        try:
            found = msgpack.unpack(payload, values=VALUES)
        except Malformed as error:
            if error.kind == "key":
                # The rest was not looked at, and may be bad as well.
                return
            assert error.kind == vector["verdict"], f"{error.kind}: {line}"
            return
        assert vector["verdict"] == "ok", f"{found!r}: {line}"
        return
    value = msgpack.unpack(payload)
    # As text, so that 1, 1.0 and True are three things.
    found, wanted = (json.dumps(one, sort_keys=True) for one in (tagged(value), vector["value"]))
    assert found == wanted, line
    assert msgpack.pack(value) == payload, line


def made(source: random.Random, depth: int) -> Any:
    """A random value."""
    kind = source.randrange(10 if depth else 8)
    few = 20 if source.randrange(30) == 0 else source.randrange(5)
    if kind < 2:
        return (None, True, False)[source.randrange(3)]
    if kind == 2:
        return source.getrandbits(64) >> source.randrange(64)
    if kind == 3:
        return -(source.getrandbits(63) >> source.randrange(63)) - 1
    if kind == 4:
        number: float = struct.unpack(">d", source.getrandbits(64).to_bytes(8, "big"))[0]
        # A signalling NaN may come out quiet: its bits are no part of the protocol.
        return number if number == number else float("nan")
    if kind in (5, 6):
        length = 300 if source.randrange(40) == 0 else few
        return "".join(source.choice("aZ_é☃🤖") for _ in range(length))
    if kind == 7:
        length = 300 if source.randrange(40) == 0 else few
        return bytes(source.randrange(256) for _ in range(length))
    if kind == 8:
        return [made(source, depth - 1) for _ in range(few)]
    return {f"key {number}": made(source, depth - 1) for number in range(few)}


def main() -> None:
    if sys.argv[1] == "make":
        seed, count = map(int, sys.stdin.read().split())
        source = random.Random(seed)
        for _ in range(count):
            value = made(source, 3)
            print(json.dumps({"hex": msgpack.pack(value).hex(), "value": tagged(value)}))
        return
    count = 0
    for line in sys.stdin:
        try:
            check_line(line)
        except AssertionError as error:
            print(f"disagrees: {error}")
            sys.exit(1)
        count += 1
    print(f"{count} checked")


if __name__ == "__main__":
    main()
