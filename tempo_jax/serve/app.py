"""The server's application: routes, error format, metrics, description and page, behind the guard."""

import dataclasses
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from tempo_jax import __version__
from tempo_jax.runtime.compiling import COMPILE_COUNTER
from tempo_jax.serve import api, openai_api, pages, schemas
from tempo_jax.serve.asking import ClientGone
from tempo_jax.serve.errors import ApiError, api_error
from tempo_jax.serve.events import Completed, Event
from tempo_jax.serve.files import MediaFolders
from tempo_jax.serve.guard import SecurityMiddleware
from tempo_jax.serve.limits import MIB
from tempo_jax.serve.service import Service, log
from tempo_jax.serve.sessions import Sessions
from tempo_jax.serve.state import State
from tempo_jax.serve.uploads import Uploads

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """The metrics of one server; each has its own registry, so that a process can have several."""

    def __init__(self, service: Service):
        self.registry = CollectorRegistry()
        new = {"registry": self.registry}
        self.requests = Counter("tempo_requests", "HTTP requests answered.", ["path", "status"], **new)
        self.answers = Counter("tempo_answers", "Questions by outcome.", ["outcome"], **new)
        self.tokens = Counter("tempo_tokens", "Tokens by kind.", ["kind"], **new)
        self.seconds = Histogram(
            "tempo_stage_seconds", "Seconds of a stage.", ["stage"], buckets=SECONDS, **new
        )
        gauges = {
            "tempo_compiled_programs": ("Programs compiled since the start.", lambda: COMPILE_COUNTER.count),
            "tempo_compiling_seconds": ("Seconds of compilation.", lambda: COMPILE_COUNTER.seconds),
            "tempo_queue_waiting": ("Queued questions.", lambda: service.waiting),
            "tempo_queue_running": ("Running questions.", lambda: service.running),
            "tempo_open_videos": ("Cached videos.", lambda: len(service.store)),
            "tempo_open_bytes": (
                "Device memory of cached videos, in bytes.",
                lambda: service.store.held_bytes,
            ),
        }
        for name, (text, read) in gauges.items():
            Gauge(name, text, **new).set_function(read)
        service.observers.append(self.observe)

    def observe(self, event: Event) -> None:
        self.answers.labels("answered" if isinstance(event, Completed) else "failed").inc()
        if not isinstance(event, Completed):
            return
        for kind in ("prompt_tokens", "visual_tokens", "new_tokens"):
            self.tokens.labels(kind.removesuffix("_tokens")).inc(event.answer.usage[kind])
        for stage, seconds in event.answer.timings.items():
            self.seconds.labels(stage).observe(seconds)
        if not event.reused:
            self.seconds.labels("open").observe(event.open_seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)


DESCRIPTION = """Ask about videos, from seconds to hours long. `/v1` is OpenAI's API, `/api` our own, with
progress, segments and thumbnails. Errors have OpenAI's format and a one-line message."""


@dataclasses.dataclass(frozen=True)
class Access:
    """token: what clients must send, None for nothing. hosts, origins: as in Guard."""

    token: str | None = None
    hosts: tuple[str, ...] | None = None
    origins: tuple[str, ...] = ()


def create_app(
    service: Service,
    library: MediaFolders,
    uploads: Uploads,
    access: Access | None = None,
    page: Path | None = pages.UI,
) -> FastAPI:
    """The application around a started service. `app.state.guarded` is what to serve.

    page: folder of the page's files, None for the API alone.
    """
    access = access or Access()
    state = State(service, library, uploads, Sessions(access.token))
    app = FastAPI(
        title="Tempo", version=__version__, description=DESCRIPTION, docs_url=None, redoc_url=None,
        openapi_url=None, redirect_slashes=False, responses={"4XX": {"model": schemas.Error}},
    )  # fmt: skip
    app.state.metrics = metrics = Metrics(service)
    _add_error_handlers(app)
    app.include_router(openai_api.router(state))
    app.include_router(api.router(state))
    _add_about(app, service, metrics)
    files = pages.static_files(page)
    pages.mount(app, files)

    def count(scope: dict, status: int) -> None:
        # Of paths, only our own: labels made up by clients would fill the memory.
        path = getattr(scope.get("route"), "path", None)
        metrics.requests.labels("page" if path in files else path or "other", str(status)).inc()

    app.state.has_page = bool(files)
    app.state.guarded = guarded = SecurityMiddleware(
        app,
        state.sessions,
        hosts=access.hosts,
        origins=access.origins,
        open_paths=files.__contains__,
        body_bytes=_body_bytes(service),
        most=service.limits.requests,
        count=count,
    )
    if access.origins:
        app.state.guarded = CORSMiddleware(
            guarded,
            allow_origins=access.origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["authorization", "content-type"],
        )
    return app


def _body_bytes(service: Service):
    """Path and method -> the most that a request's body may have."""
    limits = service.limits
    most = {
        ("/v1/files", "POST"): limits.upload_bytes + MIB,
        ("/v1/chat/completions", "POST"): limits.inline_bytes + limits.json_bytes,
    }
    return lambda path, method: most.get((path, method), limits.json_bytes)


def _add_error_handlers(app: FastAPI) -> None:
    def reply(error: ApiError) -> JSONResponse:
        return JSONResponse(error.body(), error.status, error.headers)

    @app.exception_handler(ApiError)
    async def ours(request: Request, error: ApiError) -> Response:
        return reply(error)

    @app.exception_handler(ClientGone)
    @app.exception_handler(ClientDisconnect)
    async def client_gone(request: Request, error: Exception) -> Response:
        return Response(status_code=499)  # the client has gone

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        target = f"{request.url.path[:200]!r}"
        known = {
            404: (f"There is nothing at {target}: see /docs for what there is.", "not_found"),
            405: (f"{request.method[:20]} is not possible at {target}: see /docs.", "method_not_allowed"),
        }
        message, code = known.get(error.status_code, (f"{error.detail}.", None))
        return reply(ApiError(error.status_code, message, code, headers=dict(error.headers or {})))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        location = [
            str(part)[:80] for part in error.errors()[0]["loc"] if part not in ("query", "path", "body")
        ]
        name = location[0] if location else "a parameter"
        return reply(
            ApiError(400, f"{name} has a value that it cannot have: see /docs.", "invalid_value", name)
        )

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        log.error("a request could not be answered", exc_info=error)
        return reply(api_error(error))


def _add_about(app: FastAPI, service: Service, metrics: Metrics) -> None:
    @app.get("/health", tags=["about"], summary="Whether it takes requests (503: not any more)")
    async def health(response: Response) -> schemas.Health:
        response.status_code = 200 if service.alive else 503
        return schemas.Health(
            status="ok" if service.alive else "shutting down",
            model=service.model.name,
            version=__version__,
            waiting=service.waiting,
            running=service.running,
        )

    @app.get("/metrics", tags=["about"], summary="For Prometheus", response_class=Response)
    async def prometheus() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/openapi.json", include_in_schema=False)
    async def description() -> dict:
        return app.openapi()

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(pages.description_page(app.openapi()), headers=pages.DOCS_HEADERS)
