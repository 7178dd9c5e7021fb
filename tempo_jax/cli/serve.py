"""`tempo serve`: the web page and the HTTP API of one model."""

import argparse
import contextlib
import os
import re
import sys
from pathlib import Path

from tempo_jax.cli import common, doctor
from tempo_jax.errors import TempoError
from tempo_jax.serve.limits import MIB, Limits
from tempo_jax.utils import command_line, compilation_cache, paths

HELP = """\
Serve one model: a web page and an HTTP API that OpenAI's clients can call.
Only this machine can reach the server unless --host is set; set a token then."""
EXAMPLES = """\
examples:
  tempo serve                                      the page is at http://127.0.0.1:8000
  tempo serve --folder ~/videos --folder /data     videos in these folders can be chosen by name
  TEMPO_SERVE_TOKEN=… tempo serve --host 0.0.0.0   reachable from other machines, with a token
  tempo serve --no-page                            the API alone

Stop it with Ctrl-C or SIGTERM: running requests get --grace seconds to finish. See docs/guides/serving.md.
"""
TOKEN_VARIABLE = "TEMPO_SERVE_TOKEN"
MOST_PORT = 65_535
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
# Option -> field of Limits, factor from the option's unit to the field's, help.
LIMITS = {
    "queue": ("waiting", 1, "maximum queued requests; further requests get HTTP 429"),
    "batch": (
        "batch",
        1,
        "maximum questions about one video that are read in a row; twice as many are decoded together",
    ),
    "cached-videos": ("open_videos", 1, "maximum videos whose features stay in device memory"),
    "cache-mib": ("open_bytes", MIB, "device memory of cached videos, in MiB"),
    "upload-mib": ("upload_bytes", MIB, "maximum size of an uploaded file, in MiB"),
    "store-mib": ("stored_bytes", MIB, "disk space of uploads, in MiB"),
    "video-seconds": ("video_seconds", 1, "maximum duration of a video, in seconds"),
    "decode-seconds": ("decode_seconds", 1, "time limit of decoding a video, in seconds"),
    "decode-mib": ("decode_bytes", MIB, "memory limit of a decoding process, in MiB"),
}
# Options of earlier releases -> their names now; accepted, not shown.
RENAMED = {"open-videos": "cached-videos", "open-mib": "cache-mib"}


def add_parser(commands: argparse._SubParsersAction) -> None:
    serve = commands.add_parser(
        "serve",
        help="a web page and an OpenAI-style API",
        description=HELP,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    number = command_line.number
    add = serve.add_argument_group("model").add_argument
    add("--checkpoint", metavar="DIR", help="folder of a converted model (as in tempo ask)")
    add(
        "--name", help="model name in the API (default: from the folder's name; the demo model is tempo-demo)"
    )
    add("--dtype", choices=common.DTYPES, help=common.DTYPE_HELP)
    add("--sampling", choices=command_line.SAMPLINGS, default="time", help=command_line.SAMPLING_HELP)
    common.add_no_cache(serve)
    add = serve.add_argument_group("access").add_argument
    add("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine only)")
    add("--port", type=_port, default=8000, help="port (8000; 0: any free port)")
    add(
        "--token-file",
        metavar="FILE",
        help=f"file whose first line is the token that clients send (or ${TOKEN_VARIABLE})",
    )
    add(
        "--folder",
        metavar="DIR",
        action="append",
        default=[],
        help="folder of videos that requests may name; may be repeated (default: with the demo model the "
        "folder of its hour-long video, else none)",
    )
    add(
        "--allow-origin",
        metavar="URL",
        action="append",
        default=[],
        help="origin whose pages may call the API, as https://lab.example; may be repeated (default: none)",
    )
    add("--no-page", dest="page", action="store_false", help="serve the API alone")
    add = serve.add_argument_group("limits").add_argument
    for name, (field, unit, description) in LIMITS.items():
        default = int(getattr(Limits, field)) // unit
        add(f"--{name}", type=number(int, 1), default=default, metavar="N", help=f"{description} ({default})")
    for old, name in RENAMED.items():
        destination, suppressed = name.replace("-", "_"), argparse.SUPPRESS
        add(f"--{old}", type=number(int, 1), dest=destination, default=suppressed, help=suppressed)
    add(
        "--grace",
        type=number(float, 0),
        default=10.0,
        metavar="S",
        help="seconds that running requests get to finish after a signal to stop (10)",
    )
    serve.set_defaults(run=run_serve)


def run_serve(args: argparse.Namespace) -> int:
    """Serves until a signal stops it."""
    checkpoint = common.checkpoint_folder(args.checkpoint)
    folders = [_folder(name) for name in args.folder] or example_folders(checkpoint)
    token = read_token(args.token_file)
    if token is None and args.host not in LOOPBACK_HOSTS:
        command_line.say(
            f"warning: without a token anyone who can reach {args.host} can send requests; set "
            f"${TOKEN_VARIABLE}."
        )
    origins = [_origin(text) for text in args.allow_origin]
    needs()
    from tempo_jax.serve import run

    sock = run.listen(args.host, args.port)
    with contextlib.redirect_stdout(sys.stderr):
        return _serve(args, checkpoint, folders, (token, origins), sock)


def _serve(args, checkpoint: Path, folders: list[Path], access: tuple, sock) -> int:
    from tempo_jax.serve import guard, model, pages, run
    from tempo_jax.serve.app import Access, create_app
    from tempo_jax.serve.files import MediaFolders
    from tempo_jax.serve.service import Service
    from tempo_jax.serve.uploads import Uploads

    bounds = {
        field: getattr(args, name.replace("-", "_")) * unit for name, (field, unit, _) in LIMITS.items()
    }
    limits = Limits(**bounds)
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    command_line.say("loading the model …")
    compilation_cache.turn_on(command_line.say)
    loaded = model.load(checkpoint, args.name, args.dtype, args.sampling)
    uploads = Uploads(limits)
    uploads.keep_temporary_files()
    try:
        service = Service(loaded, limits).start()
        library = MediaFolders(folders)
        hosts = guard.LOOPBACK if args.host in LOOPBACK_HOSTS else None
        token, origins = access
        allowed = Access(token, hosts, tuple(origins))
        app = create_app(service, library, uploads, allowed, pages.UI if args.page else None)
        host, port = sock.getsockname()[:2]
        name = f"[{host}]" if ":" in host else host
        served = "the page, and the API under /v1" if app.state.has_page else "the API under /v1"
        command_line.say(f"{loaded.name}: {served}: http://{name}:{port}/")
        run.serve(app.state.guarded, service, sock, uploads.remove_all, args.grace)
    finally:
        uploads.close()
    command_line.say("stopped")
    return 0


def needs() -> None:
    """Raises a TempoError that names the packages of the serve extra that are missing."""
    missing = [name for name in doctor.EXTRAS["serve"] if doctor.version(name) is None]
    if missing:
        raise TempoError(f"Serving needs {', '.join(missing)}: pip install -e '.[serve]' in the clone.")


def example_folders(checkpoint: Path) -> list[Path]:
    """The folder of the demo model's video, if `checkpoint` is that model."""
    hour = common.CLONE / "examples" / "hour"
    demo = paths.absolute(checkpoint) == (common.CLONE / common.DEFAULT_CHECKPOINT).resolve()
    return [hour] if demo and hour.is_dir() else []


def _port(text: str) -> int:
    port = command_line.number(int, 0)(text)
    if port > MOST_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is above {MOST_PORT}, the last port there is")
    return port


def _origin(text: str) -> str:
    if not re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+", text):
        raise TempoError(f"--allow-origin is {text!r:.80}: give scheme and host, as https://lab.example.")
    return text.lower()


def _folder(name: str) -> Path:
    path = Path(name).expanduser()
    if not path.is_dir():
        raise TempoError(f"There is no folder {name}; check --folder.")
    return path


def read_token(file: str | None) -> str | None:
    """Reads the token from the file or the environment.

    Raises:
      TempoError: The file cannot be read, or the token cannot be sent in a header.
    """
    token = os.environ.get(TOKEN_VARIABLE)
    if file is not None:
        try:
            token = (Path(file).read_text(encoding="utf-8").splitlines() or [""])[0].strip()
        except (OSError, ValueError) as error:
            raise TempoError(f"The token file {file} cannot be read: {error}.") from error
    if token is None:
        return None
    if not re.fullmatch(r"[A-Za-z0-9._~+/=-]{8,200}", token):
        raise TempoError("The token must have 8 to 200 letters, digits or . _ ~ + / = - and nothing else.")
    return token
