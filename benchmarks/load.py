"""A bounded load on a service: so many clients, each with one request at a time, one thread in all.

    python benchmarks/load.py http://127.0.0.1:8000/v1/predict --bodies FOLDER --clients 64

Requests are built before the clock starts and connections stay open, so that what this costs of the
processor, which is printed with the rest as JSON, is small beside what it measures. The bodies are
the PNG files of a folder, in turn. Standard library alone.
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

LONGEST = 300.0
"""Seconds after which an answer that does not come ends the whole."""


class Client:
    """One connection with one request at a time."""

    def __init__(self, place: tuple[str, int]) -> None:
        self.socket = socket.create_connection(place, timeout=LONGEST)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.began = 0.0
        self.came = bytearray()

    def ask(self, request: bytes) -> None:
        """Send a request."""
        self.came.clear()
        self.began = time.perf_counter()
        self.socket.sendall(request)

    def answered(self) -> bool:
        """Take what has come; return whether the answer is whole.

        Raises:
            OSError: If it is not 200 or the connection ended.
        """
        part = self.socket.recv(65536)
        self.came += part
        head = self.came.find(b"\r\n\r\n")
        if not part or (head >= 0 and not self.came.startswith(b"HTTP/1.1 200")):
            raise OSError(self.came[:500].decode(errors="replace") or "the connection ended")
        if head < 0:
            return False
        length = bytes(self.came[:head]).lower().split(b"content-length:")[1].split(b"\r\n")[0]
        return len(self.came) >= head + 4 + int(length)


def load(
    address: str, bodies: list[bytes], clients: int, *, seconds: float, most: int
) -> dict[str, object]:
    """Ask until the seconds are over or so many answers are there.

    Returns:
        Requests, seconds in all, seconds of each request, and processor seconds of the asking.
    """
    place = urlsplit(address)
    path = place.path + (f"?{place.query}" if place.query else "")
    requests = [
        f"POST {path} HTTP/1.1\r\nhost: {place.netloc}\r\ncontent-type: image/png\r\n"
        f"content-length: {len(body)}\r\n\r\n".encode()
        + body
        for body in bodies
    ]
    watch, taken = selectors.DefaultSelector(), list[float]()
    everybody = [Client((str(place.hostname), place.port or 80)) for _ in range(clients)]
    for client in everybody:
        watch.register(client.socket, selectors.EVENT_READ, client)
    began, cpu, asked = time.perf_counter(), time.process_time(), 0
    ends = began + seconds
    for client in everybody:
        client.ask(requests[asked % len(requests)])
        asked += 1
    while len(taken) < asked:
        found = watch.select(LONGEST)
        if not found:
            raise OSError(f"no answer within {LONGEST:g} s")
        for key, _ in found:
            client = key.data
            if not client.answered():
                continue
            now = time.perf_counter()
            taken.append(now - client.began)
            if now < ends and asked < most:
                client.ask(requests[asked % len(requests)])
                asked += 1
    took = time.perf_counter() - began
    for client in everybody:
        client.socket.close()
    return {
        "requests": len(taken),
        "seconds": took,
        "latencies": taken,
        "cpu": time.process_time() - cpu,
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--bodies", type=Path, required=True)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--most", type=int, default=10_000_000)
    given = parser.parse_args()
    bodies = [file.read_bytes() for file in sorted(given.bodies.glob("*.png"))]
    found = load(given.address, bodies, given.clients, seconds=given.seconds, most=given.most)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
