"""The HTTP API: OpenAI's chat completions, models and files, health and metrics."""

import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from tempo_jax import __version__
from tempo_jax.serve import chat, replies
from tempo_jax.serve.errors import ApiError, api_error
from tempo_jax.serve.events import ClientGone, ask, substantial, while_connected
from tempo_jax.serve.files import Library, Upload, Uploads, too_large
from tempo_jax.serve.guard import Guard
from tempo_jax.serve.limits import MIB
from tempo_jax.serve.metrics import Metrics
from tempo_jax.serve.service import Done, Event, Piece, Service

PIECE_BYTES = 1 << 20
STREAM_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store"}

NO_FILE = 'The upload has no "file": send one as multipart/form-data.'
EMPTY_FILE = "The uploaded file is empty: send a complete one."
BAD_FORM = "The upload is no well-formed multipart/form-data: send one file."


@dataclasses.dataclass(frozen=True)
class Access:
    """token: what clients must send, None for nothing. hosts: as in Guard."""

    token: str | None = None
    hosts: tuple[str, ...] | None = None


def create_app(service: Service, library: Library, uploads: Uploads, access: Access | None = None) -> FastAPI:
    """The application around a started service. `app.state.guarded` is what to serve."""
    access = access or Access()
    app = FastAPI(title="Tempo", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.metrics = metrics = Metrics(service)
    _add_error_handlers(app)
    _add_chat(app, service, library, uploads)
    _add_files(app, service, uploads)
    _add_about(app, service, metrics)
    paths = {getattr(route, "path", "") for route in app.routes}

    def count(path: str, status: int) -> None:
        # Of paths, only our own: labels made up by clients would fill the memory.
        metrics.requests.labels(path if path in paths else "other", str(status)).inc()

    most = service.limits.upload_bytes + MIB
    app.state.guarded = Guard(app, access.token, access.hosts, most, count)
    return app


def _add_error_handlers(app: FastAPI) -> None:
    def reply(error: ApiError) -> JSONResponse:
        return JSONResponse(error.body(), error.status, error.headers)

    @app.exception_handler(ApiError)
    async def ours(request: Request, error: ApiError) -> Response:
        return reply(error)

    @app.exception_handler(ClientGone)
    async def gone(request: Request, error: ClientGone) -> Response:
        return Response(status_code=499)  # nobody reads it

    @app.exception_handler(HTTPException)
    async def theirs(request: Request, error: HTTPException) -> Response:
        sentences = {
            404: f"There is nothing at {request.url.path[:200]!r}: see docs/serve.md for what there is.",
            405: f"{request.method} is not possible at {request.url.path[:200]!r}: see docs/serve.md.",
        }
        message = sentences.get(error.status_code, f"{error.detail}.")
        return reply(ApiError(error.status_code, message, headers=dict(error.headers or {})))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return reply(ApiError(400, "The request has a wrong parameter: see docs/serve.md.", "invalid_value"))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        return reply(api_error(error))


def _add_chat(app: FastAPI, service: Service, library: Library, uploads: Uploads) -> None:
    @app.post("/v1/chat/completions")
    async def completions(request: Request) -> Response:
        body = await _json(request, service.limits.inline_bytes)
        asked = await run_in_threadpool(chat.parse, body, service.model, library, uploads)
        events = ask(
            service, video=asked.video, question=asked.question, frames=asked.frames, options=asked.options
        )
        try:
            if asked.stream:
                first = await while_connected(request, substantial(events))
                return StreamingResponse(_streamed(service, asked, first, events), headers=STREAM_HEADERS)
            done = await while_connected(request, _done(events))
        except ClientGone:
            await events.aclose()
            raise
        except Exception as error:
            await events.aclose()
            raise api_error(error) from error
        extras = replies.extras(done, asked.warnings)
        return JSONResponse(
            replies.Reply(service.model.name).whole(done, extras, _reason(service, asked, done))
        )


async def _done(events: AsyncIterator[Event]) -> Done:
    while not isinstance(event := await substantial(events), Done):
        pass
    return event


async def _streamed(
    service: Service, asked: chat.Chat, first: Event, events: AsyncIterator[Event]
) -> AsyncIterator[bytes]:
    """Server-sent events of an answer whose first substantial event has come already."""
    reply = replies.Reply(service.model.name)
    async with contextlib.aclosing(events):
        yield reply.first()
        event = first
        try:
            while not isinstance(event, Done):
                if isinstance(event, Piece):
                    yield reply.piece(event.text)
                event = await substantial(events)
        except Exception as error:  # too late for another status
            yield replies.event(api_error(error).body())
            return
        extras, reason = replies.extras(event, asked.warnings), _reason(service, asked, event)
        yield reply.last(event, extras, reason, asked.include_usage)


def _reason(service: Service, asked: chat.Chat, done: Done) -> str:
    return replies.finish_reason(done, asked.options.max_new_tokens, service.model.eos_ids)


async def _json(request: Request, most: int) -> Any:
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":  # which a page of another site cannot send without asking first
        raise ApiError(415, "The request must have the content type application/json.", "content_type")
    body, size = bytearray(), 0
    async for part in request.stream():  # read to its end, which the guard bounds: clients hear better then
        size += len(part)
        if size <= most:
            body += part
    if size > most:
        raise ApiError(
            413,
            f"The request is larger than {most >> 20} MiB: upload the video at /v1/files first.",
            "too_large",
        )
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"The request is not JSON ({error}).", "invalid_json") from error


def _file(upload: Upload) -> dict:
    return {
        "id": upload.id,
        "object": "file",
        "bytes": upload.size,
        "created_at": upload.created,
        "filename": upload.name,
        "purpose": "vision",
        "status": "processed",
    }


def _add_files(app: FastAPI, service: Service, uploads: Uploads) -> None:
    @app.post("/v1/files")
    async def upload(request: Request) -> dict:
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > service.limits.upload_bytes + MIB:
            raise too_large(service.limits.upload_bytes)
        try:
            async with request.form(max_files=1, max_fields=10) as form:
                given = form.get("file")
                if not isinstance(given, UploadFile):
                    raise ApiError(400, NO_FILE, "no_file", "file")
                with uploads.new(given.filename or "the video") as writing:
                    while data := await given.read(PIECE_BYTES):
                        await run_in_threadpool(writing.write, data)
                    if not writing.size:
                        raise ApiError(400, EMPTY_FILE, "empty_file", "file")
                    return _file(writing.done())
        except (MultiPartException, HTTPException, KeyError) as error:
            raise ApiError(400, BAD_FORM, "bad_form") from error

    @app.get("/v1/files")
    async def listing() -> dict:
        return {"object": "list", "data": [_file(item) for item in uploads.items()], "has_more": False}

    @app.get("/v1/files/{identity}")
    async def one(identity: str) -> dict:
        return _file(uploads.get(identity))

    @app.delete("/v1/files/{identity}")
    async def remove(identity: str) -> dict:
        uploads.remove(identity)
        return {"id": identity, "object": "file", "deleted": True}


def _add_about(app: FastAPI, service: Service, metrics: Metrics) -> None:
    model = {"id": service.model.name, "object": "model", "created": 0, "owned_by": "tempo_jax"}

    @app.get("/v1/models")
    async def models() -> dict:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name:path}")
    async def one(name: str) -> dict:
        chat.check_model(name, service.model.name)
        return model

    @app.get("/health")
    async def health() -> Response:
        state = {
            "status": "ok" if service.alive else "shutting down",
            "model": service.model.name,
            "version": __version__,
            "waiting": service.waiting,
            "running": service.running,
        }
        return JSONResponse(state, 200 if service.alive else 503)

    @app.get("/metrics")
    async def prometheus() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")
