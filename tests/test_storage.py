"""Google Cloud Storage, as fake-gcs-server on loopback: files and folders, refusals in one line, logs."""

import importlib.util
import json
import socket
import threading
import time

import pytest

from tempo_jax.errors import TempoError, TryAgain
from tempo_jax.utils import gcs, mirror, paths
from tests import storage, storage_proxy


@pytest.fixture(scope="module")
def server():
    with storage.served() as address:
        yield address


@pytest.fixture
def folder(server, request):
    return paths.path("the folder", f"gs://{storage.BUCKET}/{request.node.name}")


def test_files_are_put_listed_fetched_and_removed(folder, tmp_path):
    local = tmp_path / "local"
    (local / "deep" / "er").mkdir(parents=True)
    (local / "deep" / "er" / "x.bin").write_bytes(b"x" * 3_000_000)
    (local / "model.json").write_text("{}")
    order = []
    paths.put(local, folder, ("model.json",), lambda stage, done, total: order.append((done, total)))
    assert order == [(3_000_000, 3_000_002), (3_000_002, 3_000_002)]  # what makes it load comes last
    assert paths.files(folder) == {"deep/er/x.bin": 3_000_000, "model.json": 2} == paths.files(local)
    copy = paths.fetched(folder, lambda name: name.endswith(".json"))
    assert paths.files(copy) == {"model.json": 2} and copy.name == folder.name
    assert paths.fetched(local) == local
    paths.remove(folder, ("model.json",))
    assert paths.files(folder) == {} and not folder.exists()
    paths.remove(folder)  # nothing there is no mistake


def test_what_another_host_writes_is_seen_at_once(folder, server):
    assert not (folder / "a").exists() and list(paths.files(folder)) == []
    import gcsfs

    other = gcsfs.GCSFileSystem(skip_instance_cache=True, endpoint_url=server, token="anon")
    other.pipe_file(f"{folder}/a", b"1")
    assert (folder / "a").exists() and list(paths.files(folder)) == ["a"]


@pytest.mark.parametrize(
    "url, words",
    [
        ("gs://no-such-bucket/x", "there is no bucket no-such-bucket"),
        ("gs:/no-such-bucket/x", "there is no bucket no-such-bucket"),  # as pathlib writes it
        ("gs://X/y", "names no bucket: give gs://BUCKET/FOLDER"),
        ("gs://", "names no bucket"),
        ("s3://bucket/x", "is in s3:// storage, which is not read here: use gs://, or mount"),
        ("hf://org/name", "is in hf:// storage"),
        ("az://a/b", "is in az:// storage"),
        ("http://host/x", "is in http:// storage"),
    ],
)
def test_what_is_no_bucket_is_a_sentence(server, url, words):
    with pytest.raises(TempoError) as caught:
        paths.path("the workdir", url)
    assert words in str(caught.value) and "the workdir" in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_extra_is_a_sentence(server, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gcsfs" else find(name))
    with pytest.raises(TempoError, match=r"needs gcsfs, which is not .*: pip install -e '\.\[gcs\]'"):
        paths.path("the workdir", "gs://bucket/x")


def test_missing_credentials_are_a_sentence(server, monkeypatch, tmp_path):
    monkeypatch.delenv(gcs.EMULATOR)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    gcs._answering.clear()
    try:
        with pytest.raises(TempoError, match="there are no Google Cloud credentials: log in"):
            paths.path("the workdir", "gs://bucket/x")
    finally:
        gcs._answering.clear()


def test_a_storage_that_does_not_answer_is_a_sentence(monkeypatch):
    """It takes the connection and says nothing."""
    if importlib.util.find_spec("gcsfs") is None:
        pytest.skip("gcsfs is not installed")
    monkeypatch.setattr(gcs, "ANSWER_SECONDS", 1.0)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        with storage.environment_of(f"http://127.0.0.1:{deaf.getsockname()[1]}"):
            began = time.monotonic()
            with pytest.raises(TryAgain, match="does not answer within 1 s"):
                paths.path("the workdir", "gs://bucket/x")
            assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    "text, kind, words",
    [
        ("Forbidden: https://x/b\nno access", TempoError, "the storage forbids it"),
        ("HTTP response code: 403 with body", TempoError, "the storage forbids it"),
        ("HTTP response code: 503", TryAgain, "does not answer"),
        ("CURL error: connection reset", TryAgain, "does not answer"),
    ],
)
def test_refusals_of_libraries_are_sentences(text, kind, words):
    try:
        try:
            raise OSError(text)
        except OSError as error:
            raise ValueError("wrapped") from error
    except ValueError as error:
        found = gcs.user_error(error, "the checkpoint")
    assert type(found) is kind and words in str(found) and "\n" not in str(found)


def test_a_bucket_that_vanished_is_a_sentence():
    error = FileNotFoundError("https://storage.googleapis.com/upload/storage/v1/b/bucket/o")
    assert "there is no such bucket" in str(gcs.user_error(error))
    assert gcs.user_error(FileNotFoundError("notes.txt")) is None


@pytest.mark.parametrize("failing", [None, ValueError("the first error")])
def test_a_save_is_given_up_where_the_storage_refuses(failing, monkeypatch):
    """Orbax itself waits for more than ten minutes; one refusal between others is none."""
    from tempo_jax.training import checkpoints

    refused = TempoError("the storage forbids it")
    answers = iter([refused, None, refused, refused])
    given_up = threading.Event()
    reasons = []

    def check(what, folder):
        if (answer := next(answers)) is not None:
            raise answer

    def give_up(prog, error):
        reasons.append(error)
        given_up.set()

    monkeypatch.setattr(checkpoints, "PROBE_SECONDS", 0.01)
    monkeypatch.setattr(gcs, "check_writable", check)
    monkeypatch.setattr(checkpoints.peers, "give_up", give_up)
    manager = checkpoints.CheckpointManager.__new__(checkpoints.CheckpointManager)
    manager.workdir, manager._saving = "gs://bucket/run", 3
    with manager._watched_storage(failing):
        assert given_up.wait(20)
    assert reasons[0] is (failing or refused)


def test_other_errors_are_no_refusals():
    assert gcs.user_error(ValueError("shape")) is None
    assert gcs.user_error(TempoError("a sentence already")) is None


def test_logs_are_copied_now_and_then_and_when_asked(folder, monkeypatch):
    monkeypatch.setattr(mirror, "SECONDS", 0.2)
    paths.write_text(folder / "log.jsonl", "1\n")
    log = mirror.Mirror(folder, ("log.jsonl", "other.jsonl"))
    assert log.folder.name == folder.name and (log.folder / "log.jsonl").read_text() == "1\n"
    with (log.folder / "log.jsonl").open("a") as file:
        file.write("2\n")
    log.flush()
    assert (folder / "log.jsonl").read_text() == "1\n2\n"
    (log.folder / "tensorboard").mkdir()
    (log.folder / "tensorboard" / "events").write_bytes(b"e")
    until = time.monotonic() + 20
    while not (folder / "tensorboard" / "events").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    (log.folder / "last").write_text("x")
    log.close()
    assert (folder / "last").read_text() == "x" and not log.folder.exists()
    assert "mirror" not in {thread.name for thread in threading.enumerate() if not thread.daemon}


def test_on_a_disk_nothing_is_copied(tmp_path):
    log = mirror.Mirror(tmp_path)
    assert log.folder == tmp_path
    log.flush()
    log.close()
    assert tmp_path.is_dir()


def test_an_owner_there_is_seen_and_gone(folder, monkeypatch):
    from tempo_jax.training import owner

    monkeypatch.setattr(owner, "HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(owner, "STALE_AFTER_SECONDS", 3.0)
    with owner.Owner(folder) as first:
        first.check()
        with pytest.raises(TempoError, match="is being trained in by process"), owner.Owner(folder):
            pass
        first.check()
    assert owner.read_owner(folder)["ended"] is True
    with owner.Owner(folder):  # at once
        pass
    values = owner.read_owner(folder) | {"ended": False, "host": "another", "token": "x"}
    paths.write_text(folder / owner.FILE, json.dumps(values))  # it was killed
    with owner.Owner(folder) as second:
        assert owner.read_owner(folder)["token"] == second.token
        paths.write_text(folder / owner.FILE, json.dumps(values | {"token": "y"}))
        with pytest.raises(TryAgain, match="was taken over"):
            second.check()


@pytest.fixture
def faulty():
    with storage.served_by_proxy() as proxy:
        yield proxy


@pytest.mark.parametrize("kind, share", [("503", 0.3), ("429", 0.3), ("reset", 0.3)])
def test_what_passes_by_is_tried_again(faulty, kind, share, tmp_path):
    """And what is read back is what was written."""
    folder = paths.path("the folder", "gs://bucket/faulty")
    for number in range(5):
        (tmp_path / f"{number}").write_bytes(bytes([number]) * 300_000)
    faulty.fault = storage_proxy.Fault(kind, share)
    paths.put(tmp_path, folder)
    copy = paths.fetched(folder)
    assert faulty.fault.met > 0
    assert {p.name: p.read_bytes() for p in copy.iterdir()} == {
        p.name: p.read_bytes() for p in tmp_path.iterdir()
    }


@pytest.mark.parametrize(
    "kind, error, words",
    [("403", TempoError, "the storage forbids it"), ("401", TempoError, "the storage does not know you")],
)
def test_what_is_refused_is_a_line_at_once(faulty, kind, error, words):
    folder = paths.path("the folder", "gs://bucket/refused")
    faulty.fault = storage_proxy.Fault(kind, wanted=lambda method, path: method in ("POST", "PUT"))
    began = time.monotonic()
    with pytest.raises(error, match=words) as caught:
        gcs.check_writable("the target", folder)
    assert "\n" not in str(caught.value) and time.monotonic() - began < 20
