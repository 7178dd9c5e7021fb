"""The HTTP API under load: many at once, clients that leave, shutting down, hostile files."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import serving_http as http
from tests.serving import wait_until
from tests.serving_http import PATIENCE, body, error_of, get, httpx, send, server, sse

folder = http.folder


def test_fifty_at_once(folder):
    """Sixteen wait and are served, the others are told to come back; none lost, none mixed up."""
    with server([folder], waiting=16) as (address, service), ThreadPoolExecutor(51) as pool:

        def one(question, name):
            with httpx.Client(timeout=PATIENCE) as client:
                reply = client.post(address + "/v1/chat/completions", json=body(name, question))
            if reply.status_code == 429:
                error_of(reply, 429, "try again")
                assert int(reply.headers["retry-after"]) >= 1
                return False
            assert reply.json()["choices"][0]["message"]["content"] == f"{name} says {question}"
            return True

        slow = pool.submit(one, "slow", "v0.mp4")
        service.model.reached.wait(PATIENCE)
        asked = [pool.submit(one, f"q{n}", f"v{n % 2}.mp4") for n in range(50)]
        wait_until(lambda: sum(future.done() for future in asked) >= 34)
        service.model.go.set()
        assert slow.result() and sum(future.result() for future in asked) == 16
    batches = service.model.batches
    assert sum(len(batch) for batch in batches) == 17 and max(len(batch) for batch in batches) <= 4


@pytest.mark.parametrize("streaming", [False, True])
def test_a_client_that_goes_away_stops_the_work(folder, streaming):
    with server([folder]) as (address, service):

        async def leave():
            async with httpx.AsyncClient(timeout=PATIENCE) as client:
                request = client.post(
                    address + "/v1/chat/completions", json=body(question="slow", stream=streaming)
                )
                task = asyncio.create_task(request)
                await asyncio.to_thread(service.model.reached.wait, PATIENCE)
                task.cancel()

        asyncio.run(leave())
        wait_until(lambda: service.model.stopped == ["slow"])
        assert send(address + "/v1/chat/completions", json=body()).status_code == 200


def test_shutting_down_during_an_answer(folder):
    """What is under way is told in the stream, what waits gets a status."""
    with server([folder]) as (address, service):
        got = []

        url, slow = address + "/v1/chat/completions", body(question="slow", stream=True)

        def read():
            with httpx.stream("POST", url, json=slow, timeout=PATIENCE) as response:
                got.extend(sse(response))

        reader = threading.Thread(target=read)
        reader.start()
        service.model.reached.wait(PATIENCE)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(send, address + "/v1/chat/completions", json=body("v1.mp4"))
            wait_until(lambda: service.waiting == 1)
            service.close(grace=0.1)
            error_of(waiting.result(), 503, "shutting down")
        reader.join(PATIENCE)
        assert "shut down" in got[-1]["error"]["message"]
        error_of(send(address + "/v1/chat/completions", json=body()), 503, "shutting down")
        assert get(address + "/health").status_code == 503


def test_mutated_files_get_a_sentence():
    """A few of what benchmarks/hostile_files.py sends by the thousand."""
    pytest.importorskip("psutil", reason="needs pip install psutil")
    from benchmarks.hostile_files import attack

    with server() as (address, _):
        statuses = attack(address, 18)
        assert get(address + "/health").status_code == 200
    assert statuses[-1] == 0 and statuses[200] and statuses[400]
