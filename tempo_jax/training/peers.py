"""The processes that train together: what one knows, all get to know (jax.distributed's key-value store).

An error of one ends all of them within seconds, with its sentence on process 0: whoever fails publishes
it, a thread in every process looks for that once a second, and ends the process wherever its main thread
may be waiting. A process that dies without a word is noticed by jax.distributed, which would abort the
others; `aborts` makes a sentence of that.
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

HEARTBEAT_SECONDS = 30  # without any, after which jax.distributed takes a process for dead
POLL_SECONDS = 1.0
GRACE_SECONDS = 10.0  # for the others to hear of an error before the process that serves the store ends
CAUSE_SECONDS = 45.0  # for the cause to arrive, when a process only sees that the connection broke
LONGEST_SECONDS = 24 * 3600  # that processes may be apart; whoever dies meanwhile ends the others
_BROKEN = ("Gloo", "UNAVAILABLE", "Connection closed", "Connection reset", "coordination", "DEADLINE", "NCCL")
_FAILED, _HEARD = "tempo/failed", "tempo/heard"

_count = itertools.count()
_ending = threading.Lock()
_decided: list[int] = []  # the status with which this process is about to end
_endings: list[Callable[[], None]] = []  # of a process that a thread ends


@contextlib.contextmanager
def joined(
    prog: str, address: str | None, processes: int | None, process: int | None, wait_seconds: int
) -> Iterator[None]:
    """Inside, this process is one of several; an exception that leaves it ends them all, this one first.

    address, processes, process: of jax.distributed; found out where they are None. wait_seconds: for the
    others to come, TryAgain's status 75 after that.
    """
    waited = max(wait_seconds - 5, 1)  # jax.distributed takes five more
    with aborts.as_sentences(prog, _ended_itself), _waiting(prog, wait_seconds):
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
    with aborts.as_sentences(prog, _ended_itself):
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
    """What each process says, in their order; waits for all of them. Every process calls it."""
    client, number = distributed.global_state.client, next(_count)
    if jax.process_count() == 1:
        return [text]
    key = f"tempo/exchange/{number}"
    client.key_value_set(f"{key}/{jax.process_index()}", json.dumps(text))
    client.wait_at_barrier(key, LONGEST_SECONDS * 1000)
    said = {int(name.rpartition("/")[2]): json.loads(value) for name, value in client.key_value_dir_get(key)}
    return [said[process] for process in range(jax.process_count())]


def all_of(fact: bool) -> bool:
    """Whether it holds in every process."""
    return all(text == "yes" for text in exchange("yes" if fact else "no"))


def publish(name: str, values: dict) -> None:
    """Puts up what this process has to say under a name, in place of what it said before."""
    if jax.process_count() > 1:
        key = f"tempo/{name}/{jax.process_index()}"
        with contextlib.suppress(Exception):  # of a store that goes away the other threads tell
            distributed.global_state.client.key_value_set(key, json.dumps(values), allow_overwrite=True)


def published(name: str) -> dict[int, dict]:
    """What the processes have put up so far; waits for nobody."""
    if jax.process_count() == 1:
        return {}
    try:
        found = distributed.global_state.client.key_value_dir_get(f"tempo/{name}/")
    except Exception:
        return {}
    return {int(key.rpartition("/")[2]): json.loads(value) for key, value in found}


def check_alike(facts: dict[str, object]) -> None:
    """TempoError where a process was started with other facts than process 0; every process calls it."""
    said = [json.loads(text) for text in exchange(json.dumps(facts))]
    for process, theirs in enumerate(said):
        if theirs != said[0]:
            names = sorted(name for name in said[0].keys() | theirs if theirs.get(name) != said[0].get(name))
            shown = "; ".join(
                f"{name} is {theirs.get(name)!r} there and {said[0].get(name)!r} on process 0"
                for name in names[:5]
            )
            raise TempoError(
                f"process {process} was started otherwise ({shown}): start the same code with the same "
                "command on every host"
            )


def check_shared(workdir: Path, token: str) -> None:
    """TempoError where this process does not see the folder that process 0 owns by this token."""
    for _ in range(40):  # a network file system may show another host's files late
        if owner.read(workdir).get("token") == token:
            return
        time.sleep(0.25)
    raise TempoError(
        f"process {jax.process_index()} does not see what process 0 writes to {workdir}: --workdir must lie "
        "on a file system that all hosts share"
    )


@contextlib.contextmanager
def at_end(callback: Callable[[], None]) -> Iterator[None]:
    """Calls `callback` where a thread ends this process inside."""
    _endings.append(callback)
    try:
        yield
    finally:
        _endings.remove(callback)


def give_up(prog: str, error: Exception) -> None:
    """Ends this process, and those that train with it, from whatever thread; does not return."""
    _fail(prog, error)


def _fail(prog: str, error: BaseException) -> None:
    """Publishes the error, waits until the others know, and ends this process."""
    alone = not jax.distributed.is_initialized() or distributed.global_state.num_processes == 1
    if not alone and _broken(error):
        time.sleep(CAUSE_SECONDS)  # the thread that listens, or an abort, ends the process meanwhile
        error = TryAgain(f"the connection to another process broke ({_line(error)}): run the command again")
    status, text = _told(prog, error)
    with _ending:
        _decided.append(status)
        if not alone:
            mine = {"process": distributed.global_state.process_id, "status": status, "text": text}
            with contextlib.suppress(Exception):  # somebody else was first
                distributed.global_state.client.key_value_set(_FAILED, json.dumps(mine))
            _hear()
        if text:
            command_line.say(f"{prog}: {text}")
        if not alone:
            _wait_for_the_others()
        _end(status)


def _told(prog: str, error: BaseException) -> tuple[int, str]:
    """Exit status and sentence, as command_line.run has them."""
    if isinstance(error, TempoError):
        return error.status, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, "stopped by Ctrl-C"
    if isinstance(error, SystemExit):
        return int(error.code or 0), ""
    if os.environ.get("TEMPO_JAX_TRACEBACK"):
        traceback.print_exception(error)
    return 1, command_line.bug(error)


def _broken(error: BaseException) -> bool:
    """Whether it only says that another process is not there any more."""
    theirs = isinstance(error, ValueError | RuntimeError) and not isinstance(error, TempoError)
    return theirs and any(word in str(error) for word in _BROKEN)


def _line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]


def _listen(prog: str, done: threading.Event) -> None:
    """Ends this process when another one has failed."""
    client = distributed.global_state.client
    while not done.wait(POLL_SECONDS):
        try:
            failed = json.loads(client.key_value_try_get(_FAILED))
        except Exception:
            continue  # not there, or the store is gone, of which jax.distributed tells
        with _ending:
            if done.is_set():
                return
            _decided.append(failed["status"])
            _hear()
            if distributed.global_state.process_id == 0 and failed["text"]:
                who = f"process {failed['process']}"
                named = failed["text"].startswith(f"{who} ")
                command_line.say(f"{prog}: {failed['text'] if named else f'{who}: ' + failed['text']}")
            _wait_for_the_others()
            _end(failed["status"])


def _hear() -> None:
    with contextlib.suppress(Exception):
        state = distributed.global_state
        state.client.key_value_set(f"{_HEARD}/{state.process_id}", "yes")


def _wait_for_the_others() -> None:
    """Process 0 has the store and ends last; for the others it is enough that it has heard."""
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


def _ended_itself(prog: str, sentence: str) -> None:
    """jax.distributed wanted to abort this process, for what the sentence says."""
    if _decided:  # it was about to end, for what has been said
        _end(_decided[0])
    command_line.say(f"{prog}: {sentence}")
    _end(TryAgain.status)


def _end(status: int) -> None:
    """Without Python's own end, in which jax.distributed would wait for the others."""
    for callback in _endings:
        with contextlib.suppress(Exception):
            callback()
    for child in multiprocessing.active_children():
        child.kill()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status)
