"""Clients that hold on to what they get: idle, slow and broken-off connections, large bodies, many requests.

    python benchmarks/serve_attacks.py

The server is `tempo serve` with the demo model, its uploads in a folder of their own. Reported of each
attack: how long /health took at most meanwhile, resident memory before and at most, file descriptors, what
was left on the disk and how many lines were logged. Exit status 1 where something was left, an attack was
not refused, or /health took longer than --patience seconds.
"""

import argparse
import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import psutil

MIB = 1 << 20
JSON = {"content-type": "application/json"}
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
FORM = (
    b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    b"Content-Length: 900000000\r\n\r\n--b\r\n"
    b'Content-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
)


class Target:
    """A server under attack."""

    def __init__(self, process: psutil.Process, address: str, home: Path, log: Path):
        self.process, self.address, self.home, self.log = process, address, home, log
        host, port = address.removeprefix("http://").split(":")
        self.place = (host, int(port))

    def connect(self, data: bytes = b"") -> socket.socket:
        sock = socket.create_connection(self.place, timeout=60)
        sock.sendall(data)
        return sock

    def free_bytes(self) -> int:
        """Bytes of files in its folder."""
        return sum(p.stat().st_size for p in self.home.rglob("*") if p.is_file() and p.name != "lock")

    def lines(self) -> int:
        return self.log.read_text().count("\n")

    @contextlib.contextmanager
    def watched(self, name: str, report: list) -> Iterator[None]:
        """Asks for /health all the time; adds (name, ok, text) to the report."""
        over, slowest, memory, files = threading.Event(), [0.0], [0], [0]
        before, logged = self.process.memory_info().rss, self.lines()

        def watch() -> None:
            while not over.is_set():
                began = time.perf_counter()
                with contextlib.suppress(httpx.HTTPError):
                    httpx.get(self.address + "/health", timeout=60)
                slowest[0] = max(slowest[0], time.perf_counter() - began)
                memory[0] = max(memory[0], self.process.memory_info().rss)
                files[0] = max(files[0], self.process.num_fds())
                over.wait(0.1)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
        time.sleep(0.5)
        text = (
            f"{name:19} /health at most {slowest[0]:5.2f} s; "
            f"resident {before >> 20} -> {memory[0] >> 20} MiB; "
            f"{files[0]} descriptors; {self.left() / MIB:.1f} MiB left; {self.lines() - logged} lines"
        )
        print(text, flush=True)
        report.append((slowest[0], self.left(), self.lines() - logged, name))


def closed(sock: socket.socket, patience: float) -> bool:
    """Whether the server ends the connection in time."""
    sock.settimeout(patience)
    try:
        while sock.recv(1 << 16):
            pass
        return True
    except ConnectionError:
        return True
    except TimeoutError:
        return False


def idle(target: Target, count: int) -> bool:
    """Connections on which nothing is asked."""
    socks = [target.connect() for _ in range(count)]
    answered = httpx.get(target.address + "/v1/models", timeout=30).status_code == 200
    time.sleep(13)
    num_closed = all(closed(sock, 5) for sock in socks)
    return answered and num_closed


def slow_headers(target: Target, count: int) -> bool:
    """A byte of a header now and then."""
    socks = [target.connect(b"GET / HTTP/1.1\r\nHost: loc") for _ in range(count)]
    for _ in range(13):
        time.sleep(1)
        for sock in socks:
            with contextlib.suppress(OSError):
                sock.sendall(b"a")
    return all(closed(sock, 5) for sock in socks)


def slow_bodies(target: Target, count: int) -> bool:
    """Bodies that come at some 100 bytes a second."""
    socks = [target.connect(CHAT + b"Content-Length: 100000\r\n\r\n{") for _ in range(count)]
    end, num_closed = time.monotonic() + 45, 0
    while time.monotonic() < end and num_closed < count:
        time.sleep(1)
        num_closed = 0
        for sock in socks:
            try:
                sock.sendall(b" " * 100)
            except OSError:
                num_closed += 1
    for sock in socks:
        sock.close()
    return num_closed == count


def broken_off(target: Target, count: int) -> bool:
    """Uploads whose client leaves."""
    for number in range(count):
        with target.connect(FORM + b"x" * (number % 4) * MIB):
            pass
    time.sleep(1)
    return target.left() == 0


def brackets(target: Target, count: int) -> bool:
    """40 MiB of JSON that is nothing but objects."""
    body = b'{"messages": [' + b"{}," * (40 * MIB // 3)

    def send(_: int) -> bool:
        try:
            reply = httpx.post(
                target.address + "/v1/chat/completions", content=body, headers=JSON, timeout=60
            )
        except httpx.HTTPError:
            return True
        return reply.status_code in (413, 503)

    with ThreadPoolExecutor(4) as pool:
        return all(pool.map(send, range(count)))


def held(target: Target, count: int) -> bool:
    """Clients that send 90 MiB of a request and hold it."""
    socks = []
    for _ in range(count):
        sock = target.connect(CHAT + b"Content-Length: 94371840\r\n\r\n")
        with contextlib.suppress(OSError):
            for _ in range(89):
                sock.sendall(b" " * MIB)
        socks.append(sock)
    time.sleep(3)
    for sock in socks:
        sock.close()
    return True


def many(target: Target, count: int) -> bool:
    """Requests of all kinds, some of them wrong."""
    model = httpx.get(target.address + "/v1/models", timeout=60).json()["data"][0]["id"]
    name = httpx.get(target.address + "/api/videos", timeout=60).json()["videos"][0]["name"]
    content = [{"type": "video_url", "video_url": {"url": name}}, {"type": "text", "text": "What?"}]
    body = {
        "model": model,
        "max_tokens": 2,
        "messages": [{"role": "user", "content": content}],
        "max_frames": 16,
    }

    def send(number: int) -> bool:
        with httpx.Client(base_url=target.address, timeout=120) as client:
            kind = number % 10
            if kind == 0:
                return client.post("/v1/chat/completions", json=body).status_code in (200, 429)
            if kind == 1:
                sent = client.post("/v1/files", files={"file": ("a.mp4", b"x" * MIB)}).json()
                return client.delete(f"/v1/files/{sent['id']}").status_code == 200
            if kind == 2:
                return client.post("/v1/chat/completions", json={"model": 1}).status_code == 400
            if kind == 3:
                return client.post("/v1/chat/completions", content=b"{", headers=JSON).status_code == 400
            if kind == 4:
                return client.get("/nothing").status_code == 404
            paths = ("/health", "/v1/models", "/api/videos", "/metrics", "/openapi.json")
            return client.get(paths[kind - 5]).status_code == 200

    with ThreadPoolExecutor(16) as pool:
        return all(pool.map(send, range(count)))


ATTACKS = (
    (idle, 600),
    (slow_headers, 60),
    (slow_bodies, 40),
    (broken_off, 60),
    (brackets, 8),
    (held, 8),
    (many, 500),
    (many, 500),
)


def full_disk() -> bool | None:
    """A server whose uploads are on 24 MiB: 20 fit, 20 more do not; None where such a disk cannot be had."""
    with tempfile.TemporaryDirectory() as home:
        command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", home]
        if subprocess.run(command, capture_output=True).returncode:
            return None
        try:
            with server(Path(home)) as target:
                files = {"file": ("a.mp4", b"x" * (20 * MIB))}
                statuses = [
                    httpx.post(target.address + "/v1/files", files=files).status_code for _ in range(3)
                ]
                free_bytes = target.left()
            print(f"full disk: statuses {statuses}, {free_bytes / MIB:.1f} MiB kept")
            return statuses == [200, 507, 507] and free_bytes == 20 * MIB
        finally:
            subprocess.run(["umount", "-l", home], check=False)


@contextlib.contextmanager
def server(home: Path) -> Iterator[Target]:
    """`tempo serve` with the demo model; killed where it does not end by itself."""
    command = [sys.executable, "-m", "tempo_jax.cli", "serve", "--port", "0"]
    with tempfile.NamedTemporaryFile("w+") as log:  # a pipe that is not read would stop it
        process = subprocess.Popen(command, stderr=log, env=os.environ | {"TMPDIR": str(home)})
        try:
            while not (match := re.search(r"(http://\S+)/$", Path(log.name).read_text(), re.MULTILINE)):
                if process.poll() is not None:
                    sys.exit(Path(log.name).read_text())
                time.sleep(0.1)
            yield Target(psutil.Process(process.pid), match[1], home, Path(log.name))
            process.terminate()
            process.wait(60)
        finally:
            process.kill()
            process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patience", type=float, default=5.0)
    args = parser.parse_args()
    report: list = []
    refused = True
    with tempfile.TemporaryDirectory() as home, server(Path(home)) as target:
        many(target, 20)  # compiles
        for attack, count in ATTACKS:
            with target.watched(f"{attack.__name__} x {count}", report):
                good = attack(target, count)
            if not good:
                print(f"  NOT REFUSED: {attack.__name__}")
                refused = False
    disk = full_disk()
    if disk is None:
        print("full disk: skipped, a small file system cannot be mounted here")
    slow = [name for seconds, _, _, name in report if seconds > args.patience]
    dirty = [name for _, free_bytes, _, name in report if free_bytes]
    loud = [name for _, _, lines, name in report if lines]
    print(f"refused: {refused}; left something: {dirty}; logged: {loud}; slow: {slow}")
    return int(not refused or disk is False or bool(slow or dirty or loud))


if __name__ == "__main__":
    sys.exit(main())
