"""A kernel for tests: answers by a function, in a thread, over a socket of its own."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from typing import Any, Callable, Dict, List, Optional

from kairo import frames, msgpack

LIMITS = frames.Limits()
#: Closes the connection instead of answering.
HANG_UP: Any = object()
#: Answers nothing.
SILENCE: Any = object()

#: Longest that a test may wait, s.
PATIENCE_S = 20.0


def response(number: Any, result: Any) -> bytes:
    """The frame of an answer."""
    payload = msgpack.pack({"id": number, "result": result})
    return frames.encode(frames.RESPONSE, payload, LIMITS)


class Kernel:
    """Serves one connection after another until it is closed."""

    def __init__(self, answer: Callable[[Dict[str, Any]], Any]) -> None:
        self._directory = tempfile.TemporaryDirectory()
        self.path = os.path.join(self._directory.name, "kernel.sock")
        self._answer = answer
        #: Every request that came, but ``kernel.hello``.
        self.requests: List[Dict[str, Any]] = []
        self.connections = 0
        self._stopping = False
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(8)
        self._listener.settimeout(PATIENCE_S)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def methods(self) -> List[str]:
        """The methods that were called, in order."""
        return [request["method"] for request in self.requests]

    def __enter__(self) -> "Kernel":
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        # Wakes accept().
        with socket.socket(socket.AF_UNIX) as wake:
            wake.connect(self.path)
        self._thread.join(PATIENCE_S)
        self._listener.close()
        self._directory.cleanup()

    def _serve(self) -> None:
        while True:
            stream, _ = self._listener.accept()
            with stream:
                if self._stopping:
                    return
                stream.settimeout(PATIENCE_S)
                self.connections += 1
                try:
                    self._talk(stream)
                except OSError:
                    pass

    def _talk(self, stream: socket.socket) -> None:
        decoder = frames.Decoder(LIMITS)
        while True:
            data = stream.recv(65536)
            if not data:
                return
            for _, payload in decoder.feed(data):
                request = msgpack.unpack(payload)
                if request["method"] == "kernel.hello":
                    stream.sendall(response(request["id"], {"features": ["cancel"]}))
                    continue
                self.requests.append(request)
                result: Optional[Any] = self._answer(request)
                if result is HANG_UP:
                    return
                if isinstance(result, bytes):
                    stream.sendall(result)
                elif result is not SILENCE and "id" in request:
                    stream.sendall(response(request["id"], result))
