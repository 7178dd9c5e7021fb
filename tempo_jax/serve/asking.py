"""The service's events, which its own thread makes, for asyncio."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

from starlette.requests import Request

from tempo_jax.serve.events import Done, Event, Failed, Piece, Ready
from tempo_jax.serve.service import Job, Service

T = TypeVar("T")


class ClientGone(Exception):
    """Nobody reads the response."""


async def ask(service: Service, **job: Any) -> AsyncIterator[Event]:
    """Submits a job (arguments of Job but its listener) and yields its events to the last.

    Left before, by whatever way, the job is cancelled. Raises Busy and Closing as `Service.submit`.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Event] = asyncio.Queue()

    def listener(event: Event) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody listens
            loop.call_soon_threadsafe(queue.put_nowait, event)

    submitted = service.submit(Job(**job, listener=listener))
    try:
        while True:
            event = await queue.get()
            yield event
            if isinstance(event, Done | Failed) or (isinstance(event, Ready) and submitted.question is None):
                return
    finally:
        service.cancel(submitted)


async def substantial(events: AsyncIterator[Event]) -> Event:
    """The next event that is not mere progress; of a Failed, its error is raised."""
    async for event in events:
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Piece | Done):
            return event
    raise RuntimeError("the events of a job end with Done or Failed")


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled (and ClientGone raised) when the client goes away.

    Call it once the request's body has been read.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for future in (task, watch):
            future.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
