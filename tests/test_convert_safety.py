"""Kill, Ctrl-C, SIGTERM, a full disk, target = source: nothing lost, nothing left, one line."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from convert import from_hf, to_hf, verify
from tempo_jax import checkpoint
from tempo_jax.data import prepare
from tests import tiny_checkpoints as tiny

REPO = Path(__file__).resolve().parent.parent
# Runs a command that signals itself (or dies) at one of its steps, a little after that has begun.
CHILD = """if True:
    import os, signal, sys, threading
    step, count, number, delay, command, *arguments = sys.argv[1:]
    import convert.from_hf, convert.to_hf, convert.verify
    from convert import native_io, safetensors_io
    from orbax.checkpoint import v1 as ocp
    from tempo_jax import checkpoint
    from tempo_jax.utils import folders
    native_io.BATCH_BYTES = 0  # a write for each array
    folders.check_space = lambda *_: None
    where = {"save": (ocp.partial, "save"), "finalize": (ocp.partial, "finalize"),
             "read": (safetensors_io.Reader, "read_matrix"), "describe": (checkpoint, "write_metadata"),
             "write": (safetensors_io.Writer, "write"), "load": (ocp, "load"),
             "place": (folders, "_take_place")}
    calls = []
    def watched(*args, real=None, **options):
        calls.append(1)
        if len(calls) == int(count):
            if number == "9":
                threading.Timer(float(delay), os._exit, (9,)).start()
            else:
                threading.Timer(float(delay), os.kill, (os.getpid(), int(number))).start()
                for _ in range(20): threading.Event().wait(0.001)
        return real(*args, **options)
    if step in where:
        holder, name = where[step]
        real = getattr(holder, name)
        setattr(holder, name, lambda *a, **o: watched(*a, real=real, **o))
    main = {"from": convert.from_hf.main, "to": convert.to_hf.main, "verify": convert.verify.main}[command]
    sys.exit(main(arguments))
"""
SIGNALS = {
    "2": (130, "stopped by Ctrl-C"),
    "15": (143, "stopped by SIGTERM"),
    "1": (129, "stopped by SIGHUP"),
}


def child(step, count, number, delay, *arguments):
    command = [sys.executable, "-c", CHILD, step, *map(str, (count, number, delay)), *map(str, arguments)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    root = tmp_path_factory.mktemp("llm")
    hf = tiny.write_llm(root / "hf", vocab=4096)
    from_hf.convert("qwen3", hf, root / "native")
    return root


CASES = [
    ("from", "read", 20, "2", 0), ("from", "save", 1, "2", 0.002), ("from", "save", 3, "15", 0),
    ("from", "save", 5, "1", 0.01), ("from", "finalize", 1, "2", 0), ("from", "describe", 1, "15", 0),
    ("from", "place", 1, "2", 0), ("to", "load", 1, "15", 0), ("to", "write", 9, "2", 0),
]  # fmt: skip


@pytest.mark.parametrize("command,step,count,number,delay", CASES)
def test_a_signal_leaves_nothing_and_one_line(llm, tmp_path, command, step, count, number, delay):
    source = llm / ("hf" if command == "from" else "native")
    arguments = ["--model=qwen3"] if command == "from" else []
    done = child(
        step, count, number, delay, command, *arguments, f"--source={source}", f"--target={tmp_path / 'out'}"
    )
    status, words = SIGNALS[number]
    if step == "place":  # it was whole: the signal comes when it has its place
        assert done.returncode == status and [f.name for f in tmp_path.iterdir()] == ["out"]
        return
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert words in done.stderr and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    assert verify.verify(llm / "native", llm / "hf").equal, "what was read is as it was"


@pytest.mark.parametrize("step,count", [("save", 2), ("finalize", 1), ("describe", 1)])
def test_after_a_kill_the_same_command_succeeds(llm, tmp_path, step, count):
    arguments = ["--model=qwen3", f"--source={llm / 'hf'}", f"--target={tmp_path / 'out'}"]
    assert child(step, count, "9", 0, "from", *arguments).returncode == 9
    assert not (tmp_path / "out").exists()
    assert from_hf.main(arguments) == 0
    assert [f.name for f in tmp_path.iterdir()] == ["out"]
    assert verify.verify(tmp_path / "out", llm / "hf").equal


def test_a_kill_while_overwriting_keeps_the_old_or_has_the_new(llm, tmp_path):
    from_hf.convert("qwen3", llm / "hf", tmp_path / "out", dtype="bfloat16")
    arguments = ["--model=qwen3", f"--source={llm / 'hf'}", f"--target={tmp_path / 'out'}", "--overwrite"]
    assert child("save", 2, "9", 0, "from", *arguments).returncode == 9
    checkpoint.load_params(tmp_path / "out", verify=True)
    assert from_hf.main(arguments) == 0
    assert [f.name for f in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",), ("--overwrite=force",)])
@pytest.mark.parametrize("place", ["{s}", "{s}/new", "{s}/..", "{s}/."])
def test_a_target_never_takes_its_source(llm, tmp_path, capsys, place, overwrite):
    hf = tiny.write_llm(tmp_path / "hold" / "hf", vocab=64)
    native = tmp_path / "kept" / "native"
    from_hf.convert("qwen3", hf, native)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for main, source, more in ((from_hf.main, hf, ["--model=qwen3"]), (to_hf.main, native, [])):
        assert main([*more, f"--source={source}", f"--target={place.format(s=source)}", *overwrite]) == 2
        err = capsys.readouterr().err
        assert "what is read" in err and err.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_target_never_takes_its_base(published, tmp_path, capsys):
    base = tmp_path / "base"
    base.symlink_to(published / "base")
    arguments = ["--model=tempo", f"--source={published / 'tempo'}", f"--base={base}", "--overwrite=force"]
    for target in (base, published / "base", published):
        assert from_hf.main([*arguments, f"--target={target}"]) == 2
        assert "what is read" in capsys.readouterr().err
    assert (published / "base" / "config.json").is_file()


def test_prepared_data_never_takes_its_records_or_media(tmp_path, capsys):
    media = tmp_path / "data" / "media"
    media.mkdir(parents=True)
    records = tmp_path / "data" / "records.json"
    records.write_text("[]")
    for target in (media, tmp_path / "data", tmp_path):
        arguments = [f"--source={records}", f"--media={media}", f"--target={target}", "--overwrite=force"]
        assert prepare.main(arguments) == 2
        err = capsys.readouterr().err
        assert "what is read" in err and err.count("\n") == 1
    assert records.is_file() and media.is_dir()


def test_a_run_never_takes_the_model_it_starts_from(tmp_path):
    from tempo_jax.errors import TempoError
    from tempo_jax.training import config as configs
    from tempo_jax.training import run_state

    config = configs.default()
    config.init.checkpoint = str(tmp_path / "model")
    (tmp_path / "model").mkdir()
    with pytest.raises(TempoError, match="what is read"):
        run_state.init_run(config, tmp_path, None)


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True)
    if made.returncode:
        pytest.skip(f"a file system cannot be mounted here: {made.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("where", ["out", "."])
def test_a_full_disk_is_one_line(llm, small_disk, where, capsys):
    """Told beforehand where that can be seen, and all the same where it cannot (a quota, another writer)."""
    for command, source, main, more in (
        ("from", llm / "hf", from_hf.main, ["--model=qwen3"]),
        ("to", llm / "native", to_hf.main, []),
    ):
        arguments = [*more, f"--source={source}", f"--target={small_disk / where}"]
        assert main(arguments) == 2
        assert "are free there: free some space" in capsys.readouterr().err
        done = child("nothing", 0, "9", 0, command, *arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert "No space left on device" in done.stderr and "free some space" in done.stderr
        assert list(small_disk.iterdir()) == []


def test_prepare_on_a_full_disk_is_one_line(small_disk, capsys):
    arguments = ["--minireel=train", "--count=25", "--seconds=64", "--model=demo"]
    assert prepare.main([*arguments, f"--target={small_disk / 'reels'}"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("preparing")]
    assert len(lines) == 1 and "No space left on device" in lines[0]
    assert list(small_disk.iterdir()) == []


def test_a_read_only_disk_is_one_line(llm, small_disk, capsys):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for main, source, more in (
        (from_hf.main, llm / "hf", ["--model=qwen3"]),
        (to_hf.main, llm / "native", []),
    ):
        for target in (small_disk, small_disk / "new"):
            os.environ.pop("TEMPO_JAX_TRACEBACK", None)
            assert main([*more, f"--source={source}", f"--target={target}"]) == 2
            err = capsys.readouterr().err
            assert err.count("\n") == 1 and ("Read-only" in err or "free there" in err)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
