"""Payloads in a sealed memfd: passed on and read without being copied.

A descriptor that arrives is believed only when the machine's kernel says that it is memory, that
nobody can write, shrink or grow it any more, and that it is as long as was claimed.
"""

from __future__ import annotations

import fcntl
import mmap
import os

from .errors import WrongShape

#: Most bytes of one payload.
MAX_SEALED_BYTES = 64 * 1024 * 1024

# From linux/fcntl.h, where Python does not name them.
_ADD_SEALS = getattr(fcntl, "F_ADD_SEALS", 1033)
_GET_SEALS = getattr(fcntl, "F_GET_SEALS", 1034)
_SEAL, _FINAL = 0x1, 0x2 | 0x4 | 0x8


class Sealed:
    """Bytes that cannot change any more. Closes its descriptor with :meth:`close`, at the end of
    its ``with``, or when it is forgotten."""

    def __init__(self, descriptor: int, length: int) -> None:
        self.descriptor = descriptor
        self.length = length

    @classmethod
    def of(cls, content: bytes) -> "Sealed":
        """Copies ``content`` into memory of its own and seals it.

        Raises :class:`ValueError` when it is empty or too long, :class:`OSError` when there is no
        memory.
        """
        if not 0 < len(content) <= MAX_SEALED_BYTES:
            raise ValueError(f"{len(content)} bytes, allowed are 1 to {MAX_SEALED_BYTES}")
        made = cls(os.memfd_create("kairo-payload", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), 0)
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(made.descriptor, rest):]
        fcntl.fcntl(made.descriptor, _ADD_SEALS, _FINAL | _SEAL)
        made.length = len(content)
        return made

    @classmethod
    def accept(cls, descriptor: int, claimed: int) -> "Sealed":
        """Takes over what a peer passed. Raises :class:`kairo.WrongShape`, and closes it."""
        taken = cls(descriptor, claimed)
        try:
            seals = fcntl.fcntl(descriptor, _GET_SEALS)
        except OSError as error:
            taken.close()
            raise WrongShape(f"the descriptor is no sealed memory: {error}") from error
        # The length only now: before it was sealed it could have changed behind the check.
        length = os.fstat(descriptor).st_size
        if seals & _FINAL != _FINAL or length != claimed or not 0 < length <= MAX_SEALED_BYTES:
            taken.close()
            text = f"memory of {length} bytes with seals {seals:#x}, claimed are {claimed} bytes"
            raise WrongShape(text)
        return taken

    def read(self) -> bytes:
        """A copy of the bytes."""
        return os.pread(self.descriptor, self.length, 0)

    def map(self) -> mmap.mmap:
        """The bytes where they are; close the mapping after use."""
        # Private: before Linux 6.7 a shared mapping of sealed memory is refused.
        flags = mmap.MAP_PRIVATE
        return mmap.mmap(self.descriptor, self.length, flags=flags, prot=mmap.PROT_READ)

    def close(self) -> None:
        """Lets go of the memory; mappings stay."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> "Sealed":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
