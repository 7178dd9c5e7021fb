"""An HTTP proxy in front of the emulator that adds latency and faults: 503s, resets, stalls, refusals."""

import contextlib
import http.client
import random
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

HOP = ("connection", "keep-alive", "transfer-encoding", "content-length")


class Fault:
    """What a request meets; called with its number, method and path. None: it passes."""

    def __init__(
        self, kind: str = "", share: float = 1.0, seconds: float = 0.0, wanted: Callable = lambda *_: True
    ):
        self.kind, self.share, self.seconds, self.wanted = kind, share, seconds, wanted
        self._random, self.met = random.Random(0), 0

    def meets(self, method: str, path: str) -> bool:
        found = bool(self.kind) and self.wanted(method, path) and self._random.random() < self.share
        self.met += found
        return found


@contextlib.contextmanager
def proxied(target: str, port: int = 0, latency_seconds: float = 0.0) -> Iterator["Proxy"]:
    """A proxy to the server at `target`, on a port of loopback; its `fault` may be changed at any time."""
    proxy = Proxy(target, port, latency_seconds)
    thread = threading.Thread(target=proxy.server.serve_forever, name="proxy", daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.server.shutdown()
        proxy.server.server_close()


class Proxy:
    def __init__(self, target: str, port: int, latency_seconds: float):
        self.fault, self.latency_seconds, self.requests = Fault(), latency_seconds, 0
        place = urlsplit(target)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                outer.requests += 1
                length = int(self.headers.get("Content-Length") or 0)
                body = self._chunked() if self.headers.get("Transfer-Encoding") else self.rfile.read(length)
                time.sleep(outer.latency_seconds)
                if outer.fault.meets(self.command, self.path) and self._faulty(outer.fault):
                    return
                there = http.client.HTTPConnection(place.hostname, place.port, timeout=60)
                headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP}
                there.request(self.command, self.path, body, headers)
                answer = there.getresponse()
                data = answer.read()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in HOP:
                        self.send_header(name, value)
                size = answer.getheader("Content-Length") if self.command == "HEAD" else len(data)
                self.send_header("Content-Length", f"{size}")
                self.end_headers()
                self.wfile.write(data)
                there.close()

            def _chunked(self) -> bytes:
                parts = []
                while size := int(self.rfile.readline().strip() or b"0", 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)

            def _faulty(self, fault: Fault) -> bool:
                """Whether the request ends here."""
                if fault.kind == "stall":
                    time.sleep(fault.seconds)
                    return False
                if fault.kind == "reset":
                    linger = struct.pack("ii", 1, 0)
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    self.connection.close()
                    self.close_connection = True
                    return True
                text = b'{"error": {"code": %s, "message": "made by the proxy"}}' % fault.kind.encode()
                self.send_response(int(fault.kind))
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", f"{len(text)}")
                self.end_headers()
                self.wfile.write(text)
                return True

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = handle_any

            def log_message(self, *_) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, *_) -> None:  # clients go away
                pass

        socketserver.TCPServer.allow_reuse_address = True
        self.server = Server(("127.0.0.1", port), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
