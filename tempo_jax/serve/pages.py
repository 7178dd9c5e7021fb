"""The server's own pages: the user interface's static files at /, and the API's description at /docs.

A policy lets nothing else in; /docs is made from /openapi.json and has no scripts.
"""

import html
import json
from collections.abc import Iterator
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


def static_files(folder: Path | None = UI) -> dict[str, Path]:
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


DOCS_HEADERS = {**HEADERS, "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
DOCS_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 0 auto; padding: 1rem; }
section { border-top: 1px solid GrayText; padding: .5rem 0; }
code, pre { font-family: ui-monospace, monospace; font-size: .9em; }
pre { overflow-x: auto; }
"""


def description_page(description: dict) -> str:
    """HTML of an OpenAPI description."""
    info = description["info"]
    parts = [f"<h1>{_text(info['title'])} {_text(info['version'])}</h1><p>{_text(info['description'])}</p>"]
    parts.append('<p>For programs: <a href="/openapi.json">/openapi.json</a></p>')
    for path, methods in description["paths"].items():
        for method, route in methods.items():
            parts += _route(path, method, route)
    parts.append("<h2>Shapes</h2>")
    for name, schema in description["components"]["schemas"].items():
        parts.append(f'<section id="{_text(name)}"><h3>{_text(name)}</h3>{_schema(schema)}</section>')
    title = _text(info["title"])
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}: the API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{DOCS_STYLE}</style></head>'
        f"<body><main>{''.join(parts)}</main></body></html>"
    )


def _route(path: str, method: str, route: dict) -> Iterator[str]:
    yield f"<section><h2><code>{method.upper()} {_text(path)}</code></h2>"
    yield f"<p>{_text(route.get('summary', ''))}</p>"
    if text := route.get("description"):
        yield f"<p>{_text(text)}</p>"
    for parameter in route.get("parameters", ()):
        yield f"<p><code>{_text(parameter['name'])}</code> ({_text(parameter['in'])})</p>"
    for kind, content in route.get("requestBody", {}).get("content", {}).items():
        yield f"<p>Takes {_text(kind)}</p>{_schema(content['schema'])}"
    for status, response in route["responses"].items():
        for kind, content in response.get("content", {}).items():
            yield f"<p>{_text(status)}: {_text(kind)} {_link(content.get('schema', {}))}</p>"
    yield "</section>"


def _schema(schema: dict) -> str:
    if "$ref" in schema:
        return _link(schema)
    return f"<pre>{_text(json.dumps(schema, indent=1, ensure_ascii=False))}</pre>"


def _link(schema: dict) -> str:
    name = schema.get("$ref", "").rsplit("/", 1)[-1]
    return f'<a href="#{_text(name)}">{_text(name)}</a>' if name else ""


def _text(text: str) -> str:
    return html.escape(str(text))
