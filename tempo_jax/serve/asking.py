"""Events of a question, sent by the service's threads, as an asyncio iterator."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

from starlette.requests import Request

from tempo_jax.serve.events import Completed, Event, Failed, Ready, TextDelta
from tempo_jax.serve.service import Job, Service

T = TypeVar("T")
HEARTBEAT_SECONDS = 10.0  # between two bytes of a stream, so that no proxy takes it for dead


class ClientGone(Exception):
    """The client has closed the connection."""


class Stopped(Exception):
    """The client has stopped the question."""


class QuestionHandler:
    """One submitted job. Raises QueueFull and ShuttingDown as `Service.submit`."""

    def __init__(self, service: Service, **job: Any):
        """job: arguments of Job but its listener."""
        self._service, self._loop = service, asyncio.get_running_loop()
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self.job = service.submit(Job(**job, on_event=self._receive))

    def _receive(self, event: Event) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)

    def stop(self) -> None:
        """Ends the computing; `events` raises Stopped. Called on the event loop."""
        self._service.cancel(self.job)
        self._queue.put_nowait(None)

    async def events(self) -> AsyncIterator[Event]:
        """All events up to the last; leaving the iteration early cancels the job."""
        try:
            while True:
                event = await self._queue.get()
                if event is None:
                    raise Stopped
                yield event
                if isinstance(event, Completed | Failed) or (
                    isinstance(event, Ready) and self.job.question is None
                ):
                    return
        finally:
            self._service.cancel(self.job)


def ask(service: Service, **job: Any) -> AsyncIterator[Event]:
    """Submits a job (arguments of Job but its listener) at once; its events."""
    return QuestionHandler(service, **job).events()


async def first_output_event(events: AsyncIterator[Event]) -> TextDelta | Completed:
    """The next event that is part of the answer; of a Failed, its error is raised."""
    async for event in events:
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, TextDelta | Completed):
            return event
    raise RuntimeError("the events of a question end with Completed or Failed")


class Alive:
    """An iterator's items with None in between whenever HEARTBEAT_SECONDS have passed without one."""

    def __init__(self, items: AsyncIterator[T]):
        self._items = items
        self._next: asyncio.Future | None = None

    def __aiter__(self) -> "Alive":
        return self

    async def __anext__(self) -> T | None:
        if self._next is None:
            self._next = asyncio.ensure_future(anext(self._items))
        done, _ = await asyncio.wait({self._next}, timeout=HEARTBEAT_SECONDS)
        if not done:
            return None
        found, self._next = self._next, None
        return found.result()

    async def aclose(self) -> None:
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)
        await self._items.aclose()


async def cancel_on_disconnect(request: Request, work: Awaitable[T]) -> T:
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
