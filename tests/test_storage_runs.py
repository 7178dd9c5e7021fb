"""The commands with gs:// in place of folders: the same results as on a disk, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import tempo_jax
from convert import from_hf, to_hf, verify
from tempo_jax import checkpoint
from tempo_jax.data import readers
from tempo_jax.data.prepare import main as prepare_main
from tempo_jax.data.prepare import prepare
from tempo_jax.data.records import open_prepared
from tempo_jax.errors import TempoError
from tempo_jax.utils import digests, paths
from tempo_jax.utils.tree import flatten
from tests import benchmark_copies as copies
from tests import eval_runs, storage, tiny_checkpoints, tiny_training
from tests.systems import relative
from tests.test_prepare_parts import content, jobs
from tests.test_train_processes import finish, start

REPO = Path(__file__).resolve().parent.parent
BUCKET = f"gs://{storage.BUCKET}"
pytestmark = pytest.mark.usefixtures("quick_compilation", "server")


@pytest.fixture(scope="module")
def server():
    with storage.served() as address:
        yield address


@pytest.fixture(scope="module")
def trained(tiny_model, tmp_path_factory) -> Path:
    """An uninterrupted run on a disk."""
    workdir = tmp_path_factory.mktemp("trained")
    assert tiny_training.train(tiny_model, workdir) == "finished"
    return workdir


def parameters(folder) -> dict[str, np.ndarray]:
    return {name: np.asarray(x) for name, x in flatten(checkpoint.load_params(folder)).items()}


def assert_same(one, other) -> None:
    one, other = parameters(one), parameters(other)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def curve(workdir: str) -> list[tuple[float, float]]:
    text = (paths.path("the workdir", workdir) / "log.jsonl").read_text()
    found = [json.loads(line) for line in text.splitlines()]
    assert [row["step"] for row in found] == list(range(1, len(found) + 1))
    return [(row["loss"], row["gradient_norm"]) for row in found]


def started(model: Path, workdir: str, **changes) -> subprocess.Popen:
    command = tiny_training.command(model, workdir, "slow", changes)
    return subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE, text=True)


def wait_for(workdir: str, name: str, run: subprocess.Popen) -> None:
    """Until an object is there whose name below the workdir begins so."""
    until = time.monotonic() + 240
    folder = paths.path("the workdir", workdir)
    while not any(found.startswith(name) for found in paths.files(folder)):
        assert run.poll() is None and time.monotonic() < until, run.stderr.read()
        time.sleep(0.01)


@pytest.mark.parametrize("when", ["checkpoints/3/commit_success.txt", "checkpoints/3/"])
def test_killed_in_a_step_or_a_save_training_goes_on_bit_for_bit(when, tiny_model, trained):
    workdir = f"{BUCKET}/killed/{when.count('commit')}"
    run = started(tiny_model, workdir)
    wait_for(workdir, when, run)
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    run = started(tiny_model, workdir)
    said = run.communicate(timeout=300)[1]
    assert run.returncode == 0, said
    assert ("Resuming from step 3" in said) == ("commit" in when)
    assert curve(workdir) == tiny_training.curve(trained)
    assert_same(f"{workdir}/model", trained / "model")


def test_the_next_stage_starts_from_there_and_writes_there(tiny_model, trained):
    """Stage after stage without a disk: a checkpoint there, its tokenizer, a new run's workdir."""
    workdir = f"{BUCKET}/stages/one"
    assert tiny_training.train(tiny_model, workdir) == "finished"
    assert curve(workdir) == tiny_training.curve(trained)
    assert tiny_training.train(f"{workdir}/model", f"{BUCKET}/stages/two", **{"steps": 1}) == "finished"
    local = trained.parent / "two"
    assert tiny_training.train(trained / "model", local, **{"steps": 1}) == "finished"
    assert_same(f"{BUCKET}/stages/two/model", local / "model")
    names = paths.files(paths.path("the workdir", workdir))
    assert any(name.startswith("tensorboard/events") for name in names) and "config.json" in names
    assert not any(name.endswith(".incomplete") for name in names)


def test_a_model_there_has_the_files_of_one_on_a_disk(trained):
    """Name by name but for Orbax's random ones, and plain Orbax restores both."""
    import orbax.checkpoint as v0

    remote = paths.path("the checkpoint", f"{BUCKET}/files-model")
    info = checkpoint.read_model_json(trained / "model")
    values = checkpoint.load_params(trained / "model")
    tokenizer = checkpoint.tokenizer_path(trained / "model")
    checkpoint.save(remote, info.kind, info.config, values, tokenizer, info.origin)
    ours, theirs = _by_kind(trained / "model"), _by_kind(remote)
    drawn = ("manifest.ocdbt", "digests.json", "_CHECKPOINT_METADATA")  # have random names and times
    assert ours.keys() == theirs.keys()
    assert {name for name in ours if ours[name] != theirs[name] and not name.endswith(drawn)} == set()
    assert digests.check(remote, whole=True)
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), values)
    for folder in (remote, trained / "model"):
        restored = flatten(v0.StandardCheckpointer().restore(folder / "params", shapes))
        for name, value in flatten(values).items():
            np.testing.assert_array_equal(restored[name], value, err_msg=name)


def _by_kind(folder) -> dict[str, object]:
    """Name -> bytes; of the data files, whose names are random, folder -> how many."""
    found: dict[str, object] = {}
    for name in paths.files(folder):
        place = name.rpartition("/")[0]
        if place.rpartition("/")[2] == "d":
            found[place] = found.get(place, 0) + 1
        else:
            found[name] = (folder / name).read_bytes()
    return found


def test_with_a_marker_on_a_disk_nothing_is_renamed(tiny_model, trained, tmp_path):
    """--commit=marker: what has no marker is no checkpoint."""
    assert tiny_training.train(tiny_model, tmp_path, **{"commit": "marker"}) == "finished"
    assert_same(tmp_path / "model", trained / "model")
    step = tmp_path / "checkpoints" / "6"
    assert (step / "commit_success.txt").is_file()
    from tempo_jax.training import checkpoints

    assert checkpoints.steps(tmp_path) == [6, 3]
    (step / "commit_success.txt").unlink()
    told = json.loads((step / "_CHECKPOINT_METADATA").read_text())
    (step / "_CHECKPOINT_METADATA").write_text(json.dumps(told | {"commit_timestamp_nsecs": None}))
    assert checkpoints.steps(tmp_path) == [3]


def test_two_processes_train_into_one_bucket(tiny_model, trained, capsys):
    """And one alone goes on with what they have written."""
    workdir = f"{BUCKET}/pair"
    results = finish(start(tiny_model, workdir, **{"mesh.fsdp": 4}))
    assert [status for status, _ in results] == [0, 0], results[0][1][-3000:] + results[1][1][-3000:]
    names = paths.files(paths.path("the workdir", workdir))
    assert {f"checkpoints/6/data/shard_{i}.json" for i in range(tiny_training.SHARDS)} <= names.keys()
    assert relative(curve(workdir), tiny_training.curve(trained)) < 1e-5
    assert tiny_training.train(tiny_model, workdir, **{"steps": 7}) == "finished"
    assert "Resuming from step 6" in capsys.readouterr().err


def test_a_damaged_step_there_is_not_used(tiny_model, trained, capsys):
    workdir = f"{BUCKET}/damaged"
    assert tiny_training.train(tiny_model, workdir) == "finished"
    folder = paths.path("the workdir", workdir)
    name = next(name for name in paths.files(folder) if name.startswith("checkpoints/6/state/manifest"))
    (folder / name).write_bytes(b"x")
    assert tiny_training.train(tiny_model, workdir, **{"steps": 7}) == "finished"
    said = capsys.readouterr().err
    assert "the checkpoint of step 6 is damaged" in said and "Resuming from step 3" in said
    assert any(name.startswith("damaged/6/state/") for name in paths.files(folder))


def test_conversion_from_and_to_there_is_byte_identical(tmp_path):
    hf = tiny_checkpoints.write_llm(tmp_path / "hf", vocab=64)
    there = paths.path("the source", f"{BUCKET}/hf")
    paths.put(hf, there)
    assert from_hf.main(["--model=qwen3", f"--source={there}", f"--target={BUCKET}/native"]) == 0
    assert to_hf.main([f"--source={BUCKET}/native", f"--target={BUCKET}/back"]) == 0
    assert verify.main([f"--native={BUCKET}/native", f"--hf={there}"]) == 0
    from_hf.convert("qwen3", hf, tmp_path / "native")
    assert_same(f"{BUCKET}/native", tmp_path / "native")
    to_hf.convert(tmp_path / "native", tmp_path / "back")
    back = paths.fetched(paths.path("the target", f"{BUCKET}/back"))
    assert content(back) == content(tmp_path / "back")
    assert digests.check(f"{BUCKET}/native", whole=True)


def test_what_is_there_is_replaced_only_when_asked(tmp_path):
    hf = tiny_checkpoints.write_llm(tmp_path / "hf", vocab=64)
    target = f"{BUCKET}/replaced"
    from_hf.convert("qwen3", hf, target)
    with pytest.raises(TempoError, match="exists already"):
        from_hf.convert("qwen3", hf, target)
    paths.write_text(paths.path("the target", target) / "notes.txt", "mine")
    with pytest.raises(TempoError, match=r"holds what tempo_jax did not write \(notes.txt\)"):
        from_hf.convert("qwen3", hf, target, overwrite=True)
    from_hf.convert("qwen3", hf, target, overwrite="force")
    assert "notes.txt" not in paths.files(paths.path("the target", target))
    with pytest.raises(TempoError, match="overlap: choose another folder"):
        to_hf.convert(target, f"{target}/hf")


def test_an_answer_of_a_checkpoint_there_is_the_same(tmp_path, capsys):
    """The shipped one, copied there as it is, without Orbax's own marks."""
    paths.put(REPO / "checkpoints" / "demo", paths.path("the checkpoint", f"{BUCKET}/demo"), ("model.json",))
    video = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), np.uint8)
    answers = [
        tempo_jax.load(folder).ask(video, "What is shown?", max_new_tokens=4)
        for folder in (REPO / "checkpoints" / "demo", f"{BUCKET}/demo")
    ]
    assert answers[0].token_ids == answers[1].token_ids
    assert [s.relevance for s in answers[0].segments] == [s.relevance for s in answers[1].segments]


def test_the_commands_write_there_what_they_write_on_a_disk(tmp_path, capsys):
    """Answers of cases, a plot."""
    from tempo_jax import cli

    video = tmp_path / "video.npy"
    np.save(video, np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), np.uint8))
    cases = json.dumps([{"video_path": str(video), "query": "What is shown?"}])
    (tmp_path / "cases.json").write_text(cases)
    folder = paths.path("the folder", f"{BUCKET}/commands")
    paths.write_text(folder / "cases.json", cases)
    options = ["--max-new-tokens=2", f"--checkpoint={REPO / 'checkpoints' / 'demo'}"]
    for where in (tmp_path, folder):
        assert cli.main(["batch", f"{where}/cases.json", f"--out={where}/out.jsonl", *options]) == 0
    ours, theirs = (json.loads((where / "out.jsonl").read_text()) for where in (tmp_path, folder))
    for line in (ours, theirs):
        del line["timings"]
    assert ours == theirs
    assert cli.main(["batch", f"{folder}/cases.json", f"--out={folder}/out.jsonl", *options]) == 0
    assert "answered in" in capsys.readouterr().err
    plot = ["ask", str(video), "What?", f"--plot={folder}/plot.png", *options]
    assert cli.main(plot) == 0 and (folder / "plot.png").read_bytes()[1:4] == b"PNG"


def test_a_prepared_set_there_is_the_same_and_is_read_there(tmp_path):
    prepare(jobs(), tmp_path / "set")
    prepare(jobs(), f"{BUCKET}/set", host=1, hosts=2)
    with pytest.raises(TempoError, match="is not a prepared data set"):
        open_prepared(f"{BUCKET}/set")
    prepare(jobs(), f"{BUCKET}/set")
    found = paths.fetched(paths.path("the target", f"{BUCKET}/set"))
    assert content(found) == content(tmp_path / "set")
    one, other = open_prepared(tmp_path / "set"), open_prepared(f"{BUCKET}/set")
    assert len(one) == len(other) and one.fingerprint == other.fingerprint
    assert one[7].conversation == other[7].conversation and one[7].frames.files == other[7].frames.files
    assert "prepared already" in prepare(jobs(), f"{BUCKET}/set")
    with pytest.raises(TempoError, match="exists already"):
        prepare(jobs(41), f"{BUCKET}/set")


def test_records_and_media_there_are_prepared_as_on_a_disk(tmp_path):
    """Into a set there, by a process of its own."""
    from PIL import Image

    media = tmp_path / "media"
    (media / "in").mkdir(parents=True)
    Image.new("RGB", (64, 64), "red").save(media / "in" / "red.png")
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Red."}]
    named = ("in/red.png", "in/red", "../red.png", "in/blue.png")
    lines = [
        json.dumps({"id": f"{n}", "image": name, "conversations": turns}) for n, name in enumerate(named)
    ]
    (media / "data.jsonl").write_text("\n".join(lines))
    paths.put(media, paths.path("the media", f"{BUCKET}/media"))
    options = ["--workers=1", "--sizes=64x64"]
    for where, target in ((media, tmp_path / "set"), (f"{BUCKET}/media", f"{BUCKET}/media-set")):
        assert prepare_main([f"--source={where}/data.jsonl", f"--target={target}", *options]) == 0
    ours, theirs = (
        content(tmp_path / "set"),
        content(paths.fetched(paths.path("the target", f"{BUCKET}/media-set"))),
    )
    assert ours == theirs and len(open_prepared(f"{BUCKET}/media-set")) == 2


def test_a_mixture_there_is_prepared_as_on_a_disk(tmp_path):
    """Its sources beside it, by whole URLs, and by whole paths of this machine."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name in ("a", "b", "c"):
        turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": f"{name}."}]
        lines = [json.dumps({"id": f"{name}{n}", "conversations": turns}) for n in range(3)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    paths.put(folder, there := paths.path("the media", f"{BUCKET}/mixed"))
    rows = "- {json_path: a.jsonl, data_root: .}\n- {json_path: %s/b.jsonl, sampling_strategy: 'first:2'}\n"
    rows += f"- {{json_path: {folder}/c.jsonl, data_root: {folder}}}\n"
    (folder / "mix.yaml").write_text(rows % folder)
    paths.write_text(there / "mix.yaml", rows % there)
    (folder / "mix-of-urls.yaml").write_text(rows % there)
    for source, name in (
        (folder / "mix.yaml", "local"), (there / "mix.yaml", "remote"), (folder / "mix-of-urls.yaml", "urls")
    ):  # fmt: skip
        assert prepare_main([f"--source={source}", f"--target={tmp_path / name}", "--sizes=64x64"]) == 0
    data = [open_prepared(tmp_path / name) for name in ("local", "remote", "urls")]
    talks = [[one[i].conversation for i in range(len(one))] for one in data]
    assert len(data[0]) == 8 and talks[0] == talks[1] == talks[2]
    with pytest.raises(TempoError, match=r"none\.yaml cannot be read"):
        readers.read(there / "none.yaml")


def test_an_evaluation_there_in_parts_is_the_same(tmp_path, demo_tokenizer_dir, monkeypatch):
    from tempo_jax.evaluation import model

    monkeypatch.setattr(model, "load", lambda config: eval_runs.FakeTempo())
    copy = tmp_path / "copy"
    copies.WRITERS["mlvu"](copy)
    folder = eval_runs.checkpoint(tmp_path / "checkpoint", demo_tokenizer_dir)
    paths.put(folder, paths.path("the checkpoint", f"{BUCKET}/eval-checkpoint"), ("model.json",))
    config = eval_runs.config_of("mlvu", copy, folder)
    eval_runs.evaluate(config, tmp_path / "local")
    config = eval_runs.config_of("mlvu", copy, f"{BUCKET}/eval-checkpoint")
    assert "answers of the other 1 are missing" in eval_runs.evaluate(config, f"{BUCKET}/eval", 0, 2)[0]
    lines = eval_runs.evaluate(config, f"{BUCKET}/eval", 1, 2)
    assert "The report" in lines[-1]
    there = paths.path("the workdir", f"{BUCKET}/eval")
    ours, theirs = (json.loads((place / "report.json").read_text()) for place in (tmp_path / "local", there))
    assert ours["results"] == theirs["results"]
    assert [row["process"] for row in theirs["hosts"]] == [0, 1]
    assert "## Hosts" in (there / "report.md").read_text()


def test_compiled_programs_are_kept_there(tmp_path):
    program = (
        "from tempo_jax.utils import compilation_cache as cache\n"
        "cache.turn_on(print)\n"
        "import jax\n"
        "jax.jit(lambda x: x @ x + 1)(jax.numpy.ones((64, 64))).block_until_ready()\n"
        "print(cache.counts.programs, cache.counts.hits)\n"
    )
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": f"{BUCKET}/cache", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }  # fmt: skip
    for hits in (False, True):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            cwd=REPO,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr
        assert (int(done.stdout.split()[-1]) > 0) == hits, done.stdout + done.stderr
