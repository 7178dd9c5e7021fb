"""State shared by the routes: service, files, sessions, clips, running questions, thumbnails."""

import asyncio
import dataclasses
import secrets
from collections import OrderedDict

from starlette.concurrency import run_in_threadpool

from tempo_jax.errors import TempoError
from tempo_jax.serve.asking import QuestionHandler
from tempo_jax.serve.bodies import Bodies
from tempo_jax.serve.clips import Clip, Clips
from tempo_jax.serve.decoder import decoding
from tempo_jax.serve.decoder_child import Request
from tempo_jax.serve.errors import ApiError, api_error
from tempo_jax.serve.files import Entry, MediaFolders
from tempo_jax.serve.opening import thumbnail
from tempo_jax.serve.service import Service
from tempo_jax.serve.sessions import Identity, Owner, Sessions
from tempo_jax.serve.settings import LIBRARY_ID
from tempo_jax.serve.store import VideoFile
from tempo_jax.serve.uploads import IDENTITY, Upload, Uploads

MOST_THUMBNAILS = 512
THUMBNAIL_DECODE_SECONDS = 8.0
ONE_FRAME = {"fps": 1.0, "min_frames": 1, "max_frames": 1}


@dataclasses.dataclass(eq=False)
class Question:
    """One that is being answered."""

    id: str
    owner: Owner
    asking: QuestionHandler
    clip: Clip
    eos_ids: tuple[int, ...]


class State:
    """The state of one server."""

    def __init__(self, service: Service, library: MediaFolders, uploads: Uploads, sessions: Sessions):
        self.service, self.library, self.uploads, self.sessions = service, library, uploads, sessions
        self.bodies = Bodies(service.limits)
        self.clips = Clips(service)
        self.thumbnails = Thumbnails(service)
        self._questions: dict[str, Question] = {}

    def video(self, identity: str, who: Identity) -> Upload | Entry:
        """An upload of theirs or a video of the library; ApiError 404."""
        if IDENTITY.fullmatch(identity):
            return self.uploads.get(identity, who)
        if LIBRARY_ID.fullmatch(identity):
            return self.library.get(identity)
        raise ApiError(404, f"There is no video {identity[:80]!r}: see /api/videos.", "video_not_found")

    def add_question(self, owner: Owner, asking: QuestionHandler, clip: Clip) -> Question:
        identity = f"question-{secrets.token_hex(12)}"
        eos = tuple(self.service.model.eos_ids)
        self._questions[identity] = question = Question(identity, owner, asking, clip, eos)
        return question

    def question(self, identity: str, who: Identity) -> Question:
        """ApiError 404 for one that is over, or not theirs."""
        found = self._questions.get(identity)
        if found is None or not found.owner.admits(who):
            raise ApiError(404, "There is no such question (any more).", "question_not_found")
        return found

    def questions_of(self, who: Identity) -> list[Question]:
        return [q for q in self._questions.values() if q.owner.session == who.session]

    def end_question(self, question: Question) -> None:
        self._questions.pop(question.id, None)
        clip = question.clip
        others = any(q.clip is clip for q in self._questions.values())
        if clip.job is None and clip.opened is None and not clip.over and not others:
            self.clips.close(clip)  # no question waits for it


class Thumbnails:
    """Thumbnails of videos that are not open: one frame, decoded like all else in a process of its own."""

    def __init__(self, service: Service):
        self._service = service
        self._made: OrderedDict[VideoFile, bytes | ApiError] = OrderedDict()
        self._decoding = asyncio.Semaphore(2)

    async def of(self, video: VideoFile) -> bytes:
        """ApiError 400 for what cannot be decoded."""
        if video not in self._made:
            async with self._decoding:
                if video not in self._made:
                    self._made[video] = await run_in_threadpool(self._make, video)
        self._made.move_to_end(video)
        while len(self._made) > MOST_THUMBNAILS:
            self._made.popitem(last=False)
        found = self._made[video]
        if isinstance(found, ApiError):
            raise found
        return found

    def _make(self, video: VideoFile) -> bytes | ApiError:
        limits = dataclasses.replace(self._service.limits, decode_seconds=THUMBNAIL_DECODE_SECONDS)
        config = self._service.model.video
        try:
            with decoding(Request(video.path, video.name, ONE_FRAME, config, limits)) as source:
                (frame,) = next(source.chunks(1))
                return thumbnail(frame)
        except TempoError as error:
            return api_error(error)
        except Exception:
            return ApiError(400, f"There is no thumbnail of {video.name}.", "no_thumbnail")
