"""Google Cloud Storage: checks of buckets before use, one-line errors, and parallel copies.

Its only dependency is gcsfs (the extra "gcs"), whose listings are never cached, since other hosts write too.
STORAGE_EMULATOR_HOST also configures the libraries that have a variable of their own for an emulator.
"""

import concurrent.futures
import contextlib
import importlib.util
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Any

from tempo_jax.errors import TempoError, TryAgain

EXTRA = "pip install -e '.[gcs]'"
ANSWER_SECONDS = 45.0  # for a bucket to answer, tries included
THREADS = 16  # of copies
EMULATOR = "STORAGE_EMULATOR_HOST"
_ALSO = ("TENSORSTORE_GCS_HTTP_URL", "CLOUD_STORAGE_EMULATOR_ENDPOINT")  # Orbax's arrays, array_record
_answering: set[str] = set()  # buckets that have answered; refusals are not cached, since they may pass
_LOGIN = "log in (gcloud auth application-default login) or set GOOGLE_APPLICATION_CREDENTIALS"


def path(what: str, url: str) -> Any:
    """The etils.epath.Path of a URL whose bucket answers; TempoError otherwise."""
    if importlib.util.find_spec("gcsfs") is None:
        raise TempoError(f"{what} {url} needs gcsfs, which is not installed: {EXTRA}")
    configure()
    bucket, _, _ = url.removeprefix("gs://").partition("/")
    if bucket not in _answering:
        if refused := _refused(bucket):
            raise type(refused)(f"{what} {url}: {refused}")
        _answering.add(bucket)
    from etils import epath

    return epath.Path(url)


def configure() -> None:
    """Configures the storage libraries of this process and of those that it starts."""
    if endpoint := os.environ.get(EMULATOR):
        os.environ[EMULATOR] = endpoint = endpoint if "://" in endpoint else f"http://{endpoint}"
        for name in _ALSO:
            os.environ.setdefault(name, endpoint)
        os.environ.setdefault("NO_GCE_CHECK", "true")
        os.environ.setdefault("GOOGLE_AUTH_TOKEN_FOR_TESTING", "emulator")  # tensorstore looks for one
    os.environ.setdefault("EPATH_USE_TF", "false")  # TensorFlow has another file system
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks for each bucket's layout
    from fsspec import config

    settings = config.conf.setdefault("gcs", {})
    settings["use_listings_cache"] = False
    if endpoint:
        settings.setdefault("token", "anon")


def filesystem() -> Any:
    """gcsfs as etils.epath uses it."""
    configure()
    from etils.epath import backend

    return backend.fsspec_backend.fs("gs://")


def _refused(bucket: str) -> TempoError | None:
    """Returns why a bucket cannot be read, or None; in bounded time, as some libraries wait for ever."""
    answers: list[BaseException | None] = []

    def ask() -> None:
        try:
            if not os.environ.get(EMULATOR):
                _check_credentials()
            fs = filesystem()
            fs.call("GET", "b/{}/o", bucket, maxResults=1, json_out=True)
            answers.append(None)
        except BaseException as error:
            answers.append(error)

    thread = threading.Thread(target=ask, name="bucket", daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    if not answers:
        return TryAgain(f"the storage does not answer within {ANSWER_SECONDS:.0f} s: check the network")
    error = answers[0]
    if error is None or isinstance(error, TempoError):
        return error
    if isinstance(error, FileNotFoundError):
        return TempoError(
            f"there is no bucket {bucket}: create it (gcloud storage buckets create) or check the name"
        )
    return user_error(error) or TryAgain(
        f"the bucket {bucket} cannot be reached ({_line(error)}): check the network"
    )


def _check_credentials() -> None:
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError

    try:
        google.auth.default(scopes=["https://www.googleapis.com/auth/devstorage.read_write"])
    except DefaultCredentialsError as error:
        raise TempoError(f"there are no Google Cloud credentials: {_LOGIN}") from error


def check_writable(what: str, folder: Any) -> None:
    """TempoError where nothing can be written below a folder, before work is put into it."""
    name = f"{os.fspath(folder)}/.tempo_jax.{os.getpid()}"
    try:
        filesystem().pipe_file(name, b"")
    except Exception as error:
        raise user_error(error, f"{what} {folder}") or error from error
    with contextlib.suppress(Exception):  # who may only create leaves an empty file there
        filesystem().rm_file(name)


def user_error(error: BaseException | None, about: str = "") -> TempoError | None:
    """A one-line error of what the storage refuses; None for other errors."""
    seen: set[int] = set()
    text = ""
    where = f"{about}: " if about else ""
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, TempoError):
            return None
        text, code = str(error), getattr(error, "code", None)
        if str(code) == "401" or "Invalid Credentials" in text or type(error).__name__ in _NO_LOGIN:
            return TempoError(f"{where}the storage does not know you ({_line(error)}): {_LOGIN}")
        if str(code) == "403" or text.startswith("Forbidden:") or "HTTP response code: 403" in text:
            return TempoError(
                f"{where}the storage forbids it ({_line(error)}): ask for the roles "
                "storage.objectUser and storage.bucketViewer on the bucket"
            )
        gone = isinstance(error, FileNotFoundError) and "/upload/storage/v1/b/" in text  # of gcsfs
        if gone or ("HTTP response code: 404" in text and "bucket" in text):
            return TempoError(f"{where}there is no such bucket ({_line(error)})")
        if _is_of_network(error):
            return TryAgain(
                f"{where}the storage does not answer ({_line(error)}): rerun the same command to resume"
            )
        error = error.__cause__ or error.__context__
    return None


_NO_LOGIN = ("RefreshError", "DefaultCredentialsError")
_NETWORK = ("ClientConnectorError", "ClientOSError", "ServerDisconnectedError", "ServerTimeoutError",
            "ClientConnectionError", "ClientPayloadError", "ClientResponseError", "FSTimeoutError",
            "ConnectionResetError", "ConnectionTimeoutError", "SocketTimeoutError", "HttpError")  # fmt: skip
_WORDS = ("HTTP response code: 50", "HTTP response code: 429", "CURL error")


def _is_of_network(error: BaseException) -> bool:
    ours = type(error).__module__.partition(".")[0] in ("aiohttp", "gcsfs", "fsspec", "requests", "urllib3")
    return (ours and type(error).__name__ in _NETWORK) or any(word in str(error) for word in _WORDS)


def _line(error: BaseException) -> str:
    """Returns the first line of an error, which may be a whole HTML page."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:160]


@contextlib.contextmanager
def report_errors(about: str = "") -> Iterator[None]:
    """Turns errors of the storage inside into TempoErrors; other errors pass."""
    try:
        yield
    except TempoError:
        raise
    except Exception as error:
        if (refusal := user_error(error, about)) is None:
            raise
        raise refusal from error


def files(folder: Any) -> dict[str, int]:
    """Name below the folder -> bytes; one listing."""
    prefix = os.fspath(folder).removeprefix("gs://").rstrip("/") + "/"
    with report_errors(str(folder)):
        try:
            found = filesystem().find(prefix, detail=True)
        except FileNotFoundError:
            return {}
    names = {name.removeprefix(prefix): int(info["size"] or 0) for name, info in found.items()}
    return {name: names[name] for name in sorted(names) if name and not name.endswith("/")}


def put_bytes(target: Any, data: bytes) -> None:
    """Writes an object atomically."""
    with report_errors(str(target)):
        filesystem().pipe_file(os.fspath(target), data)


def put(source: Path, target: Any, last: tuple[str, ...] = (), report: Callable | None = None) -> None:
    """Copies a local folder's files there, those named `last` (below it, or at its end) after all others."""
    found = {p.relative_to(source).as_posix(): p.stat().st_size for p in source.rglob("*") if p.is_file()}
    marks = [name for name in found if PurePath(name).name in last]
    total, fs, place = sum(found.values()), filesystem(), os.fspath(target)

    def one(name: str) -> int:
        fs.put_file(str(source / name), f"{place}/{name}")
        return found[name]

    done = 0
    for some in (
        sorted(found.keys() - set(marks)),
        sorted(marks, key=lambda name: last.index(PurePath(name).name)),
    ):
        for size in _many(one, some, in_order=some == marks, about=str(target)):
            done += size
            if report is not None:
                report("uploading", done, total)


def fetch(folder: Any, target: Path, wanted: Callable[[str], bool] = lambda name: True) -> None:
    """Copies an object tree to a local folder, over what is there."""
    fs, place = filesystem(), os.fspath(folder)
    found = {name: size for name, size in files(folder).items() if wanted(name)}
    target.mkdir(parents=True, exist_ok=True)
    needed, free = sum(found.values()), shutil.disk_usage(target).free
    if free < needed:
        raise TempoError(
            f"the copy of {folder} in {target} needs {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free "
            "there: set TMPDIR to a larger place"
        )

    def one(name: str) -> None:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        fs.get_file(f"{place}/{name}", str(target / name))

    list(_many(one, list(found), about=str(folder)))


def remove(target: Any, last: tuple[str, ...] = ()) -> None:
    """Deletes a prefix or an object; files named `last`, without which it does not load, go first."""
    fs, place = filesystem(), os.fspath(target)
    with report_errors(str(target)):
        names = list(files(target))
        marks = [name for name in names if PurePath(name).name in last]
        for some in (marks, [name for name in names if name not in marks]):
            list(_many(lambda name: _remove_file(fs, f"{place}/{name}"), some, about=str(target)))
        if not names:
            _remove_file(fs, place)


def move(source: Any, target: Any, last: tuple[str, ...] = ()) -> None:
    """Moves the objects below `source` by copies inside the storage; those named `last` leave it first."""
    fs, here, there = filesystem(), os.fspath(source), os.fspath(target)
    names = list(files(source))
    list(_many(lambda name: fs.cp_file(f"{here}/{name}", f"{there}/{name}"), names, about=str(target)))
    remove(source, last)


def _remove_file(fs: Any, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        fs.rm_file(name)


def _many(
    one: Callable[[str], Any], names: list[str], *, in_order: bool = False, about: str = ""
) -> Iterator[Any]:
    """Calls one(name) for each in threads; the first error ends it."""
    with report_errors(about), concurrent.futures.ThreadPoolExecutor(1 if in_order else THREADS) as pool:
        waiting = [pool.submit(one, name) for name in names]
        try:
            for future in concurrent.futures.as_completed(waiting):
                yield future.result()
        finally:
            for future in waiting:
                future.cancel()
