"""Schemas of requests and responses, which the routes use and /openapi.json describes."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tempo_jax.serve import settings
from tempo_jax.serve.model import Model


class Out(BaseModel):
    """A response."""


class In(BaseModel):
    """A request; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class ErrorBody(Out):
    message: str = Field(description="One line: what is wrong and what to do.")
    type: str
    param: str | None = Field(description="The field of the request that is invalid.")
    code: str | None = Field(description="Machine-readable code.")


class Error(Out):
    """Every status of 400 and above."""

    error: ErrorBody


class SignIn(In):
    token: str = Field(description="The one that the server was started with.")


class Session(Out):
    token_required: bool
    signed_in: bool


class About(Out):
    id: str
    system: Literal["tempo", "xcomp"]
    segment_frames: int
    segment_name: Literal["segment", "frame"]


class PageLimits(Out):
    upload_bytes: int
    stored_bytes: int
    video_seconds: float
    question_characters: int
    history_messages: int
    waiting: int


class Queue(Out):
    waiting: int
    running: int


class Info(Out):
    version: str
    model: About
    limits: PageLimits
    accept: list[str] = Field(description='For <input type="file" accept>.')
    queue: Queue


class Range(Out):
    minimum: float
    maximum: float
    step: float


class Setting(Out):
    name: str
    type: Literal["integer", "number", "string", "boolean"]
    label: str
    help: str
    group: Literal["video", "answer"] = Field(description="video: another value opens the video anew.")
    main: bool
    default: int | float | str | bool | None = Field(description="null: as the video asks for.")
    choices: list[str] | None = None
    minimum: float | None = None
    maximum: float | None = None
    published: Range | None = Field(description="Of the published demo's slider.")


class SettingList(Out):
    settings: list[Setting]


class Video(Out):
    id: str
    source: Literal["library", "upload"]
    name: str
    kind: Literal["video", "image"]
    bytes: int
    created: int
    media_url: str | None = Field(description="null: nothing that a browser can show.")
    media_type: str | None
    thumbnail_url: str
    questions: list[str]


class VideoList(Out):
    videos: list[Video]
    total: int


class Progress(Out):
    stage: str = Field(description="open, compress or answer.")
    detail: str
    done: int
    total: int
    unit: str
    seconds_left: float | None


class Segment(Out):
    index: int
    start_seconds: float
    end_seconds: float
    thumbnail_url: str | None


class Frames(Out):
    fps: float
    min_frames: int
    max_frames: int


class Clip(Out):
    id: str
    video: Video
    frames: Frames
    state: Literal["queued", "opening", "open", "failed"]
    place: int | None = Field(description="In the queue; 1 is next.")
    progress: Progress | None
    error: ErrorBody | None
    duration_seconds: float | None
    frame_count: int | None
    open_seconds: float | None
    segments: list[Segment] | None


class ClipList(Out):
    clips: list[Clip]


class NewClip(In):
    video: str = Field(description="A video's id.")
    fps: float | None = None
    min_frames: int | None = None
    max_frames: int | None = None


class Turn(In):
    role: Literal["system", "user", "assistant"]
    content: str


class Question(In):
    video: str | None = Field(None, description="A video's id; this or clip.")
    clip: str | None = Field(None, description="A clip's id.")
    question: str
    history: list[Turn] | None = Field(None, description="Earlier turns, in order.")
    settings: dict[str, Any] | None = Field(None, description="By the names of /api/settings.")


class File(Out):
    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: str


class FileList(Out):
    object: Literal["list"]
    data: list[File]
    has_more: bool


class Deleted(Out):
    id: str
    object: Literal["file"]
    deleted: bool


class ModelCard(Out):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(Out):
    object: Literal["list"]
    data: list[ModelCard]


class Health(Out):
    status: Literal["ok", "shutting down"]
    model: str
    version: str
    waiting: int
    running: int


def body_of(model: type[BaseModel]) -> dict:
    """The part of a route's description that says what it takes; it parses its body by itself."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {
                            "type": "string",
                            "description": "Ignored; OpenAI's clients send it.",
                        },
                    },
                    "required": ["file"],
                }
            }
        },
    }
}
MEDIA = {
    200: {"content": {"video/*": {}, "image/*": {}}, "description": "The file, or 206 with a range of it."}
}
JPEG = {200: {"content": {"image/jpeg": {}}, "description": "A small JPEG."}}
EVENTS = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "Events."}}


def setting_properties(model: Model) -> dict[str, dict]:
    """The settings of a question as JSON schema."""
    properties = {}
    for row in settings.described(model):
        schema = {"type": row["type"], "description": f"{row['label']}. {row['help']}"}
        for keyword, field in (("minimum", "minimum"), ("maximum", "maximum"), ("enum", "choices")):
            if row.get(field) is not None:
                schema[keyword] = row[field]
        properties[row["name"]] = schema
    return properties


def chat_body(model: Model) -> dict:
    """The schema of a chat completion request, from the tables that parse it."""
    setting_schemas = setting_properties(model)
    text = {"type": "object", "properties": {"type": {"const": "text"}, "text": {"type": "string"}}}
    parts: list[dict] = [text | {"required": ["type", "text"]}]
    for kind, (outer, inner) in settings.VISUAL_PARTS.items():
        address = {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}, "description": "The video's frames."},
                {"type": "object", "properties": {inner: {"type": "string"}}, "required": [inner]},
            ]
        }
        properties = {"type": {"const": kind}, outer: address, **setting_schemas}
        parts.append({"type": "object", "properties": properties, "required": ["type", outer]})
    content = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"anyOf": parts}}]}
    message = {
        "type": "object",
        "properties": {"role": {"enum": ["system", "developer", "user", "assistant"]}, "content": content},
        "required": ["role", "content"],
    }
    openai_settings = {openai_name: setting_schemas[name] for openai_name, name in settings.NAMES.items()}
    schema = {
        "type": "object",
        "properties": {
            "model": {"const": model.name},
            "messages": {"type": "array", "items": message, "minItems": 1},
            "stream": {"type": "boolean"},
            "stream_options": {"type": "object", "properties": {"include_usage": {"type": "boolean"}}},
            "stop": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
            **openai_settings,
            **setting_schemas,
            "tempo": {"type": "object", "properties": setting_schemas, "additionalProperties": False},
            "mm_processor_kwargs": {
                "type": "object",
                "properties": setting_schemas,
                "additionalProperties": False,
            },
        },
        "required": ["model", "messages"],
    }
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
