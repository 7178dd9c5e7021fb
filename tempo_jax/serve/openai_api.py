"""OpenAI's surface, /v1: chat completions, models and files."""

from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse

from tempo_jax.serve import bodies, chat, schemas
from tempo_jax.serve.asking import Alive, ClientGone, ask, cancel_on_disconnect, first_output_event
from tempo_jax.serve.bodies import DataUris
from tempo_jax.serve.errors import api_error
from tempo_jax.serve.events import (
    ChatCompletionFormatter,
    Completed,
    Event,
    TextDelta,
    answer_extras,
    finish_reason,
    server_sent_event,
)
from tempo_jax.serve.sessions import Identity, Owner
from tempo_jax.serve.state import State
from tempo_jax.serve.uploads import Upload

STREAM_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}
ALIVE = b": still here\n\n"


def router(state: State) -> APIRouter:
    """All routes."""
    made = APIRouter(prefix="/v1")
    _add_chat(made, state)
    _add_files(made, state)
    _add_models(made, state)
    return made


def _add_chat(api: APIRouter, state: State) -> None:
    service = state.service

    @api.post(
        "/chat/completions", tags=["OpenAI"], summary="Ask about one video or image",
        openapi_extra=schemas.chat_body(service.model), response_class=JSONResponse,
    )  # fmt: skip
    async def completions(request: Request) -> Response:
        me = request.state.who
        uris = DataUris(state.uploads, service.limits.inline_bytes)
        try:
            return await answered(request, me, uris)
        except BaseException:
            await run_in_threadpool(uris.close)
            raise

    async def answered(request: Request, me: Identity, uris: DataUris) -> Response:
        body = await state.bodies.json(request, uris)
        files = chat.Files(state.library, state.uploads, me, uris)
        chat_request = await run_in_threadpool(chat.parse, body, service.model, files)
        del body
        try:
            events = ask(
                service, video=chat_request.video, question=chat_request.question, frames=chat_request.frames,
                options=chat_request.options, client=me.client, conversation=chat_request.conversation,
                stop=chat_request.stop,
            )  # fmt: skip
        except Exception as error:
            raise api_error(error) from error
        try:
            if chat_request.stream:
                stream = Alive(_parts(events))
                first = await cancel_on_disconnect(request, anext(stream))
                return StreamingResponse(
                    _streamed(state, chat_request, first, stream, uris), headers=STREAM_HEADERS
                )
            done = await cancel_on_disconnect(request, _done(events))
        except ClientGone:
            await events.aclose()
            raise
        except Exception as error:
            await events.aclose()
            raise api_error(error) from error
        await run_in_threadpool(uris.close)
        reply = ChatCompletionFormatter(service.model.name)
        return JSONResponse(reply.whole(done, answer_extras(done, []), _reason(state, chat_request, done)))


async def _done(events: AsyncIterator[Event]) -> Completed:
    while not isinstance(event := await first_output_event(events), Completed):
        pass
    return event


async def _parts(events: AsyncIterator[Event]) -> AsyncIterator[TextDelta | Completed]:
    """The answer's events; of a failure, its error is raised."""
    try:
        while True:
            event = await first_output_event(events)
            yield event
            if isinstance(event, Completed):
                return
    finally:
        await events.aclose()


async def _streamed(
    state: State, chat_request: chat.Chat, first: TextDelta | Completed | None, stream: Alive, uris: DataUris
) -> AsyncIterator[bytes]:
    """Server-sent events of an answer.

    first: what came within asking.HEARTBEAT_SECONDS, while there could still be another status; else None.
    """
    reply = ChatCompletionFormatter(state.service.model.name)
    event = first
    try:
        if first is None:
            yield ALIVE
        yield reply.first()
        while not isinstance(event, Completed):
            if isinstance(event, TextDelta):
                yield reply.piece(event.text)
            event = await anext(stream)
            if event is None:
                yield ALIVE
        extras, reason = answer_extras(event, []), _reason(state, chat_request, event)
        yield reply.last(event, extras, reason, chat_request.include_usage)
    except Exception as error:  # too late for another status
        yield server_sent_event(api_error(error).body())
    finally:
        uris.close()
        await stream.aclose()


def _reason(state: State, chat_request: chat.Chat, done: Completed) -> str:
    return finish_reason(done, chat_request.options.max_new_tokens, state.service.model.eos_ids)


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


def _add_files(api: APIRouter, state: State) -> None:
    uploads = state.uploads

    @api.post("/files", tags=["OpenAI"], summary="Upload a video or image", openapi_extra=schemas.FORM)
    async def upload(request: Request) -> schemas.File:
        received = await bodies.receive_upload(request, uploads, Owner.of(request.state.who))
        return schemas.File(**_file(received))

    @api.get("/files", tags=["OpenAI"], summary="The session's uploads")
    async def listing(request: Request) -> schemas.FileList:
        files = [_file(item) for item in uploads.items(request.state.who)]
        return schemas.FileList(object="list", data=files, has_more=False)

    @api.get("/files/{identity}", tags=["OpenAI"], summary="One upload")
    async def one(request: Request, identity: str) -> schemas.File:
        return schemas.File(**_file(uploads.get(identity, request.state.who)))

    @api.delete("/files/{identity}", tags=["OpenAI"], summary="Delete an upload")
    async def remove(request: Request, identity: str) -> schemas.Deleted:
        await run_in_threadpool(uploads.remove, identity, request.state.who)
        return schemas.Deleted(id=identity, object="file", deleted=True)


def _add_models(api: APIRouter, state: State) -> None:
    name = state.service.model.name
    model = schemas.ModelCard(id=name, object="model", created=0, owned_by="tempo_jax")

    @api.get("/models", tags=["OpenAI"], summary="The one model")
    async def models() -> schemas.ModelList:
        return schemas.ModelList(object="list", data=[model])

    @api.get("/models/{name_given:path}", tags=["OpenAI"], summary="The model")
    async def one(name_given: str) -> schemas.ModelCard:
        chat.check_model(name_given, name)
        return model
