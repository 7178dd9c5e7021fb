"""The /api routes, which the page uses."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from tempo_jax import __version__
from tempo_jax.prompts import Message
from tempo_jax.serve import asking, chat, events, files, schemas, settings
from tempo_jax.serve.asking import Alive, QuestionHandler, Stopped
from tempo_jax.serve.bodies import checked
from tempo_jax.serve.clips import Clip
from tempo_jax.serve.errors import ApiError, api_error
from tempo_jax.serve.events import StageProgress
from tempo_jax.serve.files import VIDEO_SUFFIXES, Entry, is_image
from tempo_jax.serve.sessions import Identity, Owner
from tempo_jax.serve.state import Question, State
from tempo_jax.serve.uploads import Upload
from tempo_jax.video.images import SUFFIXES

STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
STREAM_TYPE = "text/event-stream"
HISTORY_MESSAGES = 64
JPEG_HEADERS = {"Cache-Control": "private, max-age=3600, immutable"}
FRAMES = ("fps", "min_frames", "max_frames")


def who(request: Request) -> Identity:
    return request.state.who


def router(state: State) -> APIRouter:
    """All routes."""
    made = APIRouter(prefix="/api")
    _add_session(made, state)
    _add_about(made, state)
    _add_videos(made, state)
    _add_clips(made, state)
    _add_questions(made, state)
    return made


def _add_session(api: APIRouter, state: State) -> None:
    sessions = state.sessions

    @api.get("/session", tags=["session"], summary="Whether a token is needed, and was given")
    async def session(request: Request) -> schemas.Session:
        return schemas.Session(token_required=sessions.token_required, signed_in=request.state.signed_in)

    @api.post("/session", tags=["session"], summary="Sign in", openapi_extra=schemas.body_of(schemas.SignIn))
    async def sign_in(request: Request, response: Response) -> schemas.Session:
        body = checked(await state.bodies.json(request), {"token": str})
        if sessions.token_required and not sessions.matches(body.get("token", "")):
            await asyncio.sleep(0.5)  # limits guessing
            raise ApiError(
                401, "This is not the server's token: ask its operator.", "invalid_api_key", "token"
            )
        response.headers["set-cookie"] = sessions.cookie(who(request).session, request.scope)
        return schemas.Session(token_required=sessions.token_required, signed_in=True)

    @api.delete(
        "/session", tags=["session"], status_code=204, summary="Sign out: nothing of the session stays"
    )
    async def sign_out(request: Request) -> Response:
        me = who(request)
        for question in state.questions_of(me):
            question.asking.stop()
        for clip in state.clips.items(me):
            state.clips.close(clip)
        await run_in_threadpool(state.uploads.forget, me)
        if not me.fresh:
            sessions.end(me.session)
        return Response(status_code=204, headers={"set-cookie": sessions.clearing(request.scope)})


def _add_about(api: APIRouter, state: State) -> None:
    service = state.service
    model, limits = service.model, service.limits

    @api.get("/info", tags=["about"], summary="The model, limits and the queue")
    async def info() -> schemas.Info:
        frames = model.video.segment_frames
        return schemas.Info(
            version=__version__,
            model=schemas.About(
                id=model.name,
                system="tempo" if model.sampler is None else "xcomp",
                segment_frames=frames,
                segment_name="frame" if frames == 1 else "segment",
            ),
            limits=schemas.PageLimits(
                upload_bytes=limits.upload_bytes,
                stored_bytes=limits.stored_bytes,
                video_seconds=limits.video_seconds,
                question_characters=chat.MOST_QUESTION,
                history_messages=HISTORY_MESSAGES,
                waiting=limits.waiting,
            ),
            accept=["video/*", "image/*", *VIDEO_SUFFIXES, *SUFFIXES, ".npy"],
            queue=schemas.Queue(waiting=service.waiting, running=service.running),
        )

    @api.get("/settings", tags=["about"], summary="The settings of a question, with their ranges")
    async def all_settings() -> schemas.SettingList:
        return schemas.SettingList(settings=settings.described(model))


def _add_videos(api: APIRouter, state: State) -> None:
    @api.get("/videos", tags=["videos"], summary="Own uploads, then the library")
    async def videos(
        request: Request,
        query: str = "",
        limit: int = Query(50, ge=1, le=200),
        offset: int = Query(0, ge=0, le=1_000_000),
    ) -> schemas.VideoList:
        def listed() -> tuple[list[dict], int]:
            mine = [*reversed(state.uploads.items(who(request)))]
            matches = [i for i in (*mine, *state.library.entries()) if query.casefold() in i.name.casefold()]
            return [described(item) for item in matches[offset : offset + limit]], len(matches)

        items, total = await run_in_threadpool(listed)
        return schemas.VideoList(videos=items, total=total)

    @api.get("/videos/{identity}", tags=["videos"], summary="One video")
    async def video(request: Request, identity: str) -> schemas.Video:
        return schemas.Video(
            **await run_in_threadpool(lambda: described(state.video(identity, who(request))))
        )

    @api.delete("/videos/{identity}", tags=["videos"], status_code=204, summary="Delete an upload")
    async def remove(request: Request, identity: str) -> Response:
        item = await run_in_threadpool(state.video, identity, who(request))
        if isinstance(item, Entry):
            raise ApiError(
                403, "A file of the library cannot be deleted here: only uploads.", "not_an_upload"
            )
        await run_in_threadpool(state.uploads.remove, item.id, who(request))
        return Response(status_code=204)

    @api.head("/videos/{identity}/media", include_in_schema=False)
    @api.get(
        "/videos/{identity}/media", tags=["videos"], responses=schemas.MEDIA, response_class=Response,
        summary="The file, by ranges",
    )  # fmt: skip
    async def file(request: Request, identity: str) -> Response:
        item = await run_in_threadpool(state.video, identity, who(request))
        return await run_in_threadpool(files.respond, request, item.path, item.name)

    @api.get(
        "/videos/{identity}/thumbnail", tags=["videos"], responses=schemas.JPEG, response_class=Response,
        summary="A thumbnail",
    )  # fmt: skip
    async def thumbnail(request: Request, identity: str) -> Response:
        item = await run_in_threadpool(state.video, identity, who(request))
        return Response(
            await state.thumbnails.of(item.video()), media_type="image/jpeg", headers=JPEG_HEADERS
        )


def described(item: Upload | Entry) -> dict:
    """A Video of the API."""
    library = isinstance(item, Entry)
    kind = files.media_type(item.path)
    address = f"/api/videos/{item.id}"
    image = (kind or "").startswith("image/") if kind not in (None, "image/gif") else is_image(item.name)
    return {
        "id": item.id,
        "source": "library" if library else "upload",
        "name": item.name,
        "kind": "image" if image else "video",
        "bytes": item.size,
        "created": item.modified if library else item.created,
        "media_url": f"{address}/media" if kind else None,
        "media_type": kind,
        "thumbnail_url": f"{address}/thumbnail",
        "questions": list(item.questions) if library else [],
    }


def _add_clips(api: APIRouter, state: State) -> None:
    clips = state.clips

    @api.post(
        "/clips", tags=["clips"], status_code=201, summary="Open a video",
        openapi_extra=schemas.body_of(schemas.NewClip),
    )  # fmt: skip
    async def opening(request: Request) -> schemas.Clip:
        number = (int, float)
        body = checked(
            await state.bodies.json(request),
            {"video": str, "fps": number, "min_frames": number, "max_frames": number},
        )
        clip = await _clip(state, who(request), body.pop("video", None), body)
        try:
            clips.open(clip, who(request))
        except Exception as error:
            raise api_error(error) from error
        return schemas.Clip(**clip.as_json())

    @api.get("/clips", tags=["clips"], summary="The session's clips")
    async def listing(request: Request) -> schemas.ClipList:
        return schemas.ClipList(clips=[clip.as_json(segments=False) for clip in clips.items(who(request))])

    @api.get("/clips/{identity}", tags=["clips"], summary="One clip")
    async def one(request: Request, identity: str) -> schemas.Clip:
        return schemas.Clip(**clips.get(identity, who(request)).as_json())

    @api.get(
        "/clips/{identity}/events", tags=["clips"], summary="Progress of the opening",
        responses=schemas.EVENTS, response_class=StreamingResponse,
    )  # fmt: skip
    async def watch(request: Request, identity: str) -> Response:
        clip = clips.get(identity, who(request))
        return StreamingResponse(_watched(clip), media_type=STREAM_TYPE, headers=STREAM_HEADERS)

    @api.get(
        "/clips/{identity}/thumbnails/{index}", tags=["clips"], summary="A thumbnail of a segment",
        responses=schemas.JPEG, response_class=Response,
    )  # fmt: skip
    async def thumbnail(request: Request, identity: str, index: int) -> Response:
        shown = clips.get(identity, who(request)).opened
        if shown is None or not 0 <= index < len(shown.thumbnails):
            raise ApiError(
                404, "There is no such segment, or the video is not open yet.", "segment_not_found"
            )
        return Response(shown.thumbnails[index], media_type="image/jpeg", headers=JPEG_HEADERS)

    @api.delete("/clips/{identity}", tags=["clips"], status_code=204, summary="Close it")
    async def close(request: Request, identity: str) -> Response:
        clip = clips.get(identity, who(request))
        for question in state.questions_of(who(request)):
            if question.clip is clip:
                question.asking.stop()
        clips.close(clip)
        return Response(status_code=204)


async def _clip(state: State, me: Identity, video: str | None, frames: dict) -> Clip:
    """The session's clip of a video by its id, sampled by these settings."""
    if not video:
        raise ApiError(400, "video is missing: give a video's id.", "missing_video", "video")
    item = await run_in_threadpool(state.video, video, me)
    sampled, _ = chat.read_settings(frames, state.service.model)
    return state.clips.of(me, await run_in_threadpool(described, item), item.video(), sampled)


def sse(name: str, data: Any) -> bytes:
    """One event."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    return f"event: {name}\ndata: {text}\n\n".encode("utf-8", "replace")


ALIVE = b": still here\n\n"


async def _watched(clip: Clip) -> AsyncIterator[bytes]:
    changed = asyncio.Event()
    clip.watchers.add(changed)
    try:
        while True:
            changed.clear()
            yield sse("clip", clip.as_json(segments=clip.over))
            if clip.over:
                return
            while not changed.is_set():
                try:
                    await asyncio.wait_for(changed.wait(), asking.HEARTBEAT_SECONDS)
                except TimeoutError:
                    yield ALIVE
            await asyncio.sleep(0.1)  # several changes at once are one
    finally:
        clip.watchers.discard(changed)


def _add_questions(api: APIRouter, state: State) -> None:
    @api.post(
        "/questions", tags=["questions"], responses=schemas.EVENTS, response_class=StreamingResponse,
        openapi_extra=schemas.body_of(schemas.Question), summary="Ask; the answer comes as events",
        description="Events: question, queued, started, progress, clip, piece; last: done, stopped or error.",
    )  # fmt: skip
    async def question_asked(request: Request) -> Response:
        body = checked(
            await state.bodies.json(request),
            {"video": str, "clip": str, "question": str, "history": list, "settings": dict},
        )
        me = who(request)
        question, conversation = _conversation(body)
        values = body.get("settings") or {}
        for name in values:
            if name not in settings.SETTINGS:
                raise settings.unknown(name, "settings")
        clip = await _requested_clip(state, me, body, values)
        _, options = chat.read_settings(
            {k: v for k, v in values.items() if k not in FRAMES}, state.service.model
        )
        try:
            started = QuestionHandler(
                state.service, video=clip.file, question=question, frames=clip.frames, options=options,
                client=me.client, conversation=conversation,
            )  # fmt: skip
        except Exception as error:
            raise api_error(error) from error
        pending = state.add_question(Owner.of(me), started, clip)
        return StreamingResponse(
            _question_events(state, pending), media_type=STREAM_TYPE, headers=STREAM_HEADERS
        )

    @api.delete("/questions/{identity}", tags=["questions"], status_code=204, summary="Stop")
    async def stop(request: Request, identity: str) -> Response:
        state.question(identity, who(request)).asking.stop()
        return Response(status_code=204)


def _conversation(body: dict) -> tuple[str, tuple[Message, ...]]:
    history = body.get("history") or []
    if len(history) > HISTORY_MESSAGES:
        raise ApiError(
            400,
            f"history has more than {HISTORY_MESSAGES} messages: leave out the earliest.",
            "too_long",
            "history",
        )
    messages = []
    for number, message in enumerate(history):
        path = f"history.{number}"
        values = checked(message, {"role": str, "content": str})
        if values.get("role") not in ("system", "user", "assistant") or "content" not in values:
            raise ApiError(
                400, f"{path} needs a role (system, user, assistant) and content.", "invalid_message", path
            )
        messages.append(Message(values["role"], values["content"]))
    first = next((i for i, message in enumerate(messages) if message.role == "user"), None)
    if first is not None:
        messages[first] = messages[first]._replace(video=True)
    question = chat.check_messages([*messages, Message("user", body.get("question") or "")])
    return question, tuple(messages)


async def _requested_clip(state: State, me: Identity, body: dict, values: dict) -> Clip:
    if ("video" in body) == ("clip" in body):
        raise ApiError(400, "Give a video's id or a clip's, one of them.", "one_video", "video")
    frames = {name: values[name] for name in FRAMES if values.get(name) is not None}
    if "video" in body:
        return await _clip(state, me, body["video"], frames)
    if frames:
        message = f"{min(frames)} is the clip's own: leave it out, or give the video's id."
        raise ApiError(400, message, "invalid_value", min(frames))
    return state.clips.get(body["clip"], me)


async def _question_events(state: State, pending: Question) -> AsyncIterator[bytes]:
    """The events of one question."""
    clip, began, pace = pending.clip, time.monotonic(), StageProgress()
    first = None
    text = ""
    stream = Alive(pending.asking.events())
    try:
        yield sse("question", {"id": pending.id, "clip": clip.id})
        async for event in stream:
            if event is None:
                yield ALIVE
                continue
            if not isinstance(event, events.Queued | events.Failed):
                state.clips.hear(clip, event)
            if isinstance(event, events.Queued):
                yield sse("queued", {"place": event.place, "seconds": event.seconds})
            elif isinstance(event, events.Started):
                yield sse("started", {"reused": event.reused})
            elif isinstance(event, events.Progress):
                due, report = pace.due(event), pace.of(event)
                if due:
                    yield sse("progress", report)
            elif isinstance(event, events.Ready):
                yield sse("clip", clip.as_json())
            elif isinstance(event, events.TextDelta):
                first = first or time.monotonic() - began
                text += event.text
                yield sse("piece", {"text": event.text})
            elif isinstance(event, events.Failed):
                raise event.error
            elif isinstance(event, events.Completed):
                yield sse("done", _answer(pending, event, began, first))
    except Stopped:
        yield sse("stopped", {"text": text})
    except Exception as error:
        failure = api_error(error)
        state.clips.hear(clip, events.Failed(error))
        yield sse("error", {**failure.body(), "status": failure.status})
    finally:
        with contextlib.suppress(Exception):
            await stream.aclose()
        state.end_question(pending)


def _answer(pending: Question, done: events.Completed, began: float, first: float | None) -> dict:
    extras = events.answer_extras(done, [])
    options = pending.asking.job.options
    total = time.monotonic() - began
    return {
        "text": done.answer.text,
        "finish_reason": events.finish_reason(done, options.max_new_tokens, pending.eos_ids),
        **extras,
        "segments": [
            {name: row[name] for name in ("index", "start_seconds", "end_seconds", "relevance", "tokens")}
            for row in extras["segments"]
        ],
        "first_token_seconds": first if first is not None else total,
        "waited_seconds": max(0.0, total - float(done.answer.timings.get("total", 0.0))),
        "saved_seconds": done.open_seconds if done.reused else 0.0,
    }
