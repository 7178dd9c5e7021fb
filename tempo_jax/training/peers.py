"""Communication among the processes of a run, over jax.distributed's key-value store.

An error of one process ends all of them within seconds, with its message on process 0: the failing process
publishes it, and a thread in every process polls for it once a second and ends the process, whatever its main
thread waits for. A process that dies silently is noticed by jax.distributed, which would abort the others;
`aborts` turns that into an error message.
"""

import contextlib
import itertools
import json
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
from jax._src import distributed

from tempo_jax.errors import TempoError, TryAgain
from tempo_jax.training import aborts, owner
from tempo_jax.utils import command_line

HEARTBEAT_SECONDS = 30  # without a heartbeat after which a process counts as dead
POLL_SECONDS = 1.0
GRACE_SECONDS = 10.0  # for the others to read an error before the process that serves the store ends
CAUSE_SECONDS = 45.0  # to wait for the cause, when a process only sees a broken connection
LONGEST_SECONDS = 24 * 3600  # timeout of barriers
_BROKEN = ("Gloo", "UNAVAILABLE", "Connection closed", "Connection reset", "coordination", "DEADLINE", "NCCL")
_FAILED, _HEARD = "tempo/failed", "tempo/heard"

_count = itertools.count()
_ending = threading.Lock()
_decided: list[int] = []  # exit status of this process, once it is ending
_endings: list[Callable[[], None]] = []  # callbacks for when a thread ends this process


@contextlib.contextmanager
def joined(
    prog: str, address: str | None, processes: int | None, process: int | None, wait_seconds: int
) -> Iterator[None]:
    """Joins the processes of a run; an exception inside ends all of them.

    Args:
      prog: Name of the command, for messages.
      address: host:port of process 0; None: detected by jax.distributed, as are the next two.
      processes: Number of processes.
      process: Index of this one.
      wait_seconds: Time to wait for the other processes; then this one ends with status 75.
    """
    waited = max(wait_seconds - 5, 1)  # jax.distributed takes five more
    with aborts.as_messages(prog, _on_abort), _waiting(prog, wait_seconds):
        try:
            jax.distributed.initialize(
                address,
                processes,
                process,
                initialization_timeout=waited,
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            )
        except ValueError as error:
            if isinstance(error, TempoError):
                raise
            raise TempoError(f"--distributed: {error} (--coordinator, --processes, --process)") from error
    with aborts.as_messages(prog, _on_abort):
        done = threading.Event()
        threading.Thread(target=_listen, args=(prog, done), name="peers", daemon=True).start()
        try:
            yield
        except BaseException as error:
            _fail(prog, error)
        try:
            distributed.global_state.client.wait_at_barrier("tempo/end", LONGEST_SECONDS * 1000)
        except Exception as error:
            _fail(prog, error)
        done.set()
        jax.distributed.shutdown()


@contextlib.contextmanager
def _waiting(prog: str, seconds: int) -> Iterator[None]:
    came = threading.Event()

    def tell() -> None:
        began = time.monotonic()
        while not came.wait(10) and (waited := time.monotonic() - began) < seconds:
            command_line.say(f"{prog}: waiting for the other processes ({waited:.0f} s of {seconds} s)")

    threading.Thread(target=tell, daemon=True).start()
    try:
        yield
    finally:
        came.set()


def exchange(text: str = "") -> list[str]:
    """Gathers a text of every process, in their order; every process calls it and waits for the others."""
    client, number = distributed.global_state.client, next(_count)
    if jax.process_count() == 1:
        return [text]
    key = f"tempo/exchange/{number}"
    client.key_value_set(f"{key}/{jax.process_index()}", json.dumps(text))
    client.wait_at_barrier(key, LONGEST_SECONDS * 1000)
    texts = {int(name.rpartition("/")[2]): json.loads(value) for name, value in client.key_value_dir_get(key)}
    return [texts[process] for process in range(jax.process_count())]


def all_agree(fact: bool) -> bool:
    """Returns whether a fact holds in every process."""
    return all(text == "yes" for text in exchange("yes" if fact else "no"))


def publish(name: str, values: dict) -> None:
    """Publishes values of this process under a name, in place of earlier ones."""
    if jax.process_count() > 1:
        key = f"tempo/{name}/{jax.process_index()}"
        with contextlib.suppress(Exception):  # other threads report a store that has gone away
            distributed.global_state.client.key_value_set(key, json.dumps(values), allow_overwrite=True)


def published(name: str) -> dict[int, dict]:
    """Returns what the processes have published so far; does not wait."""
    if jax.process_count() == 1:
        return {}
    try:
        entries = distributed.global_state.client.key_value_dir_get(f"tempo/{name}/")
    except Exception:
        return {}
    return {int(key.rpartition("/")[2]): json.loads(value) for key, value in entries}


def check_alike(facts: dict[str, object]) -> None:
    """Raises TempoError where the facts of a process differ from those of process 0; all call it."""
    first, *_ = all_facts = [json.loads(text) for text in exchange(json.dumps(facts))]
    for process, other in enumerate(all_facts):
        if other != first:
            names = sorted(name for name in first.keys() | other if other.get(name) != first.get(name))
            shown = "; ".join(
                f"{name} is {other.get(name)!r} there and {first.get(name)!r} on process 0"
                for name in names[:5]
            )
            raise TempoError(
                f"process {process} was started otherwise ({shown}): start the same code with the same "
                "command on every host"
            )


def check_shared(workdir: Path, token: str) -> None:
    """Raises TempoError where this process does not see the folder that process 0 owns by this token."""
    for _ in range(40):  # a network file system may show another host's files late
        if owner.read_owner(workdir).get("token") == token:
            return
        time.sleep(0.25)
    raise TempoError(
        f"process {jax.process_index()} does not see what process 0 writes to {workdir}: --workdir must lie "
        "on a file system that all hosts share"
    )


@contextlib.contextmanager
def at_end(callback: Callable[[], None]) -> Iterator[None]:
    """Registers a callback for the case that a thread ends this process inside."""
    _endings.append(callback)
    try:
        yield
    finally:
        _endings.remove(callback)


def give_up(prog: str, error: BaseException) -> None:
    """Ends this process and the others of the run, from any thread; does not return."""
    _fail(prog, error)


def _fail(prog: str, error: BaseException) -> None:
    """Publishes the error, waits until the others know, and ends this process."""
    alone = not jax.distributed.is_initialized() or distributed.global_state.num_processes == 1
    if not alone and _is_lost_connection(error):
        time.sleep(CAUSE_SECONDS)  # meanwhile the listening thread or an abort ends the process
        error = TryAgain(
            f"the connection to another process broke ({_first_line(error)}): run the command again"
        )
    status, text = _exit_status_and_message(prog, error)
    with _ending:
        _decided.append(status)
        if not alone:
            mine = {"process": distributed.global_state.process_id, "status": status, "text": text}
            with contextlib.suppress(Exception):  # another process was first
                distributed.global_state.client.key_value_set(_FAILED, json.dumps(mine))
            _acknowledge()
        if text:
            command_line.say(f"{prog}: {text}")
        if not alone:
            _wait_for_the_others()
        _end(status)


def _exit_status_and_message(prog: str, error: BaseException) -> tuple[int, str]:
    """Returns exit status and message, as command_line.run has them."""
    if isinstance(error, TempoError):
        return error.status, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, "stopped by Ctrl-C"
    if isinstance(error, SystemExit):
        return int(error.code or 0), ""
    if os.environ.get("TEMPO_JAX_TRACEBACK"):
        traceback.print_exception(error)
    return 1, command_line.internal_error(error)


def _is_lost_connection(error: BaseException) -> bool:
    """Returns whether an error only says that another process is gone."""
    is_library_error = isinstance(error, ValueError | RuntimeError) and not isinstance(error, TempoError)
    return is_library_error and any(word in str(error) for word in _BROKEN)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]


def _listen(prog: str, done: threading.Event) -> None:
    """Ends this process when another one has failed."""
    client = distributed.global_state.client
    while not done.wait(POLL_SECONDS):
        try:
            failed = json.loads(client.key_value_try_get(_FAILED))
        except Exception:
            continue  # nothing published, or the store is gone, which jax.distributed reports
        with _ending:
            if done.is_set():
                return
            _decided.append(failed["status"])
            _acknowledge()
            if distributed.global_state.process_id == 0 and failed["text"]:
                who = f"process {failed['process']}"
                named = failed["text"].startswith(f"{who} ")
                command_line.say(f"{prog}: {failed['text'] if named else f'{who}: ' + failed['text']}")
            _wait_for_the_others()
            _end(failed["status"])


def _acknowledge() -> None:
    with contextlib.suppress(Exception):
        state = distributed.global_state
        state.client.key_value_set(f"{_HEARD}/{state.process_id}", "yes")


def _wait_for_the_others() -> None:
    """Waits until the error is known: process 0, which serves the store, ends last."""
    client, until = distributed.global_state.client, time.monotonic() + GRACE_SECONDS
    needed = (
        range(distributed.global_state.num_processes) if distributed.global_state.process_id == 0 else (0,)
    )
    while time.monotonic() < until:
        try:
            heard = {int(key.rpartition("/")[2]) for key, _ in client.key_value_dir_get(f"{_HEARD}/")}
        except Exception:
            return
        if heard.issuperset(needed):
            return
        time.sleep(0.1)


def _on_abort(prog: str, sentence: str) -> None:
    """Ends this process with a message where jax.distributed would abort it."""
    if _decided:  # it was already ending
        _end(_decided[0])
    command_line.say(f"{prog}: {sentence}")
    _end(TryAgain.status)


def _end(status: int) -> None:
    """Ends without Python's shutdown, in which jax.distributed would wait for the others."""
    for callback in _endings:
        with contextlib.suppress(Exception):
            callback()
    for child in multiprocessing.active_children():
        child.kill()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status)
