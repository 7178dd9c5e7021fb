"""The page: static files of the package, at /, with a policy that lets nothing else in."""

from pathlib import Path

from fastapi import FastAPI, Request
from starlette.responses import FileResponse, Response

UI = Path(__file__).resolve().parent / "ui"
INDEX = "index.html"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webp": "image/webp",
    ".ico": "image/x-icon",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
    ".txt": "text/plain; charset=utf-8",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; connect-src 'self'; font-src 'self'; manifest-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


def pages(folder: Path | None = UI) -> dict[str, Path]:
    """Path in the address -> file, of all that may be served; nothing where there is no page."""
    if folder is None or not (folder / INDEX).is_file():
        return {}
    files = {"/": folder / INDEX}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.suffix in TYPES and path.is_file() and not any(part.startswith((".", "_")) for part in parts):
            files["/" + "/".join(parts)] = path
    return files


def mount(app: FastAPI, files: dict[str, Path]) -> None:
    """Adds a route for each file; they are read afresh at every request."""

    async def page(request: Request) -> Response:
        path = files[request.scope["path"]]
        return FileResponse(path, media_type=TYPES[path.suffix], headers=HEADERS)

    for address in files:
        app.add_route(address, page, methods=["GET"], include_in_schema=False)
