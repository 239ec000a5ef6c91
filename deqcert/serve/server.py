"""The process: a socket, a server that stops gracefully, and a line that says where it is."""

from __future__ import annotations

import signal
import socket
from typing import Any

import uvicorn

from deqcert.errors import ConfigError
from deqcert.serve.app import make_app
from deqcert.serve.limits import Serving
from deqcert.serve.logs import log, set_up_logs
from deqcert.serve.service import Service


def listen(serving: Serving) -> socket.socket:
    """Open the socket, before anything is loaded.

    Raises:
        ConfigError: If the address or the port cannot be had.
    """
    try:
        family = socket.getaddrinfo(serving.host, serving.port, type=socket.SOCK_STREAM)[0][0]
        # asyncio sends at once (TCP_NODELAY) only where the protocol is named: otherwise the two
        # parts of an answer wait for each other, 40 ms on a loopback.
        opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((serving.host, serving.port))
        opened.listen(2048)  # whoever comes before the model is loaded waits
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "there is no such address"
        raise ConfigError(
            f"cannot listen on {serving.host[:80]} port {serving.port} ({reason}); give another "
            "--host or --port"
        ) from None
    return opened


def serve(service: Service, opened: socket.socket) -> None:
    """Answer requests until the process is told to stop: SIGTERM, or Ctrl-C.

    It then takes no new requests, answers those that it has, and puts all records on the disk.

    Args:
        service: The service.
        opened: The socket.
    """
    set_up_logs()
    config = uvicorn.Config(
        make_app(service),
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=max(1, round(service.serving.longest_seconds)),
        limit_concurrency=4 * service.serving.queue + 64,
    )
    server = uvicorn.Server(config)
    # The server hands the signal on when it is done; by then nothing is left to be ended by it.
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    host, port = opened.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"serving {service.smooth.model} on http://{shown}:{port}", flush=True)
    log("started", address=f"http://{shown}:{port}", **_facts(service))
    try:
        server.run(sockets=[opened])
    finally:
        signal.signal(signal.SIGTERM, before)
        opened.close()


def _facts(service: Service) -> dict[str, Any]:
    return {
        "model": str(service.smooth.model),
        "records": str(service.records.path),
        "classifier": service.smooth.predictor.about(),
        "keys": service.keys.needed,
    }
