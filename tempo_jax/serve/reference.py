"""/docs: the API's description as a page without scripts, made from /openapi.json."""

import html
import json
from collections.abc import Iterator

from tempo_jax.serve import static

HEADERS = {**static.HEADERS, "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 0 auto; padding: 1rem; }
section { border-top: 1px solid GrayText; padding: .5rem 0; }
code, pre { font-family: ui-monospace, monospace; font-size: .9em; }
pre { overflow-x: auto; }
"""


def page(description: dict) -> str:
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
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>'
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
