"""Validation while training: loss and answers, where they are shown, and that they change nothing."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

import tempo_jax
from tempo_jax.errors import TempoError
from tempo_jax.training import config as configs
from tempo_jax.training import loggers, restore, validation
from tempo_jax.training.goodput import KINDS, Goodput
from tests import tiny_training
from tests.tiny_training import curve, rows

pytestmark = pytest.mark.usefixtures("quick_compilation")
ASKED = ConfigDict({"video": "nowhere.mp4", "question": "What?"})
SOURCE = ConfigDict({"kind": "prepared", "path": "elsewhere"})


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "four.npy"
    np.save(path, np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), np.uint8))
    return str(path)


@pytest.fixture(scope="module")
def validated(tiny_model, video, tmp_path_factory):
    """Every two steps on two batches, with a question, the best checkpoint kept."""
    workdir = tmp_path_factory.mktemp("validated")
    questions = (ConfigDict({"video": video, "question": "What?"}),)
    validation = {"every": 2, "sources": (SOURCE,), "batches": 2, "questions": questions, "max_new_tokens": 3}
    changes = {f"validation.{name}": value for name, value in validation.items()}
    changes |= {"checkpoint_every": 2, "checkpoints.latest": 1, "checkpoints.best": 1}
    tiny_training.train(tiny_model, workdir, **changes)
    return workdir


def of(workdir):
    return [json.loads(line) for line in (workdir / "validation.jsonl").read_text().splitlines()]


def test_it_changes_nothing_of_the_run(tiny_model, validated, tmp_path):
    tiny_training.train(tiny_model, tmp_path)
    assert curve(tmp_path) == curve(validated)
    assert not (tmp_path / "validation.jsonl").exists()


def test_loss_and_answers_are_those_of_the_weights(validated, video):
    found = of(validated)
    assert [row["step"] for row in found] == [2, 4, 6]
    assert found[-1]["validation_loss"] < found[0]["validation_loss"] - 0.3
    assert all(row["validation_tokens"] > 0 and row["validation_seconds"] > 0 for row in found)
    model = tempo_jax.load(validated / "model")
    (answer,) = found[-1]["answers"]
    assert answer == {
        "video": video,
        "question": "What?",
        "text": model.ask(video, "What?", max_new_tokens=3).text,
    }


def test_the_best_checkpoint_stays(validated):
    best = min(of(validated), key=lambda row: row["validation_loss"])["step"]
    assert restore.steps(validated) == sorted({best, 6}, reverse=True)


def events(workdir):
    """The records of an event file: length, its CRC, data, their CRC."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted((workdir / "tensorboard").glob("events*")):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def test_tensorboard_shows_numbers_texts_and_pictures(validated):
    values = [(event.step, value) for event in events(validated) for value in event.summary.value]
    losses = {step: value.simple_value for step, value in values if value.tag == "validation_loss"}
    assert losses == pytest.approx({row["step"]: row["validation_loss"] for row in of(validated)})
    texts = {
        step: value.tensor.string_val[0].decode() for step, value in values if "text_summary" in value.tag
    }
    assert texts.keys() == {2, 4, 6} and of(validated)[-1]["answers"][0]["text"] in texts[6]
    assert all(text.startswith("**What?** (") for text in texts.values())
    pictures = [(step, value.image) for step, value in values if value.tag == "answers/0/video"]
    assert [step for step, _ in pictures] == [2], "of a video that stays the same, once"
    assert (pictures[0][1].height, pictures[0][1].width) == (128, 4 * 128)
    assert pictures[0][1].encoded_image_string.startswith(b"\x89PNG")


def test_norms_of_groups_add_up(validated):
    for row in rows(validated):
        parts = [row[f"gradient_norm_{group}"] for group in tiny_training.RATES]
        assert np.sqrt(np.square(parts).sum()) == pytest.approx(row["gradient_norm"], rel=1e-5)


def test_goodput_is_of_the_wall_time(validated):
    last = rows(validated)[-1]
    shares = {kind: last[f"goodput_{kind}"] for kind in KINDS}
    assert all(share >= 0 for share in shares.values()) and 0.5 < sum(shares.values()) <= 1
    assert shares["compile"] > shares["steps"] > 0 and shares["validation"] > 0 and shares["restore"] > 0


def test_goodput_counts_every_second_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    goodput = Goodput()
    for kind, seconds in (("restore", 10), (None, 5), ("compile", 20), ("input", 1), (None, 60), ("save", 4)):
        if kind == "compile":
            goodput.loop()
        now[0] += seconds
        if kind:
            goodput.add(kind, seconds)
    expected = {"restore": 10, "compile": 20, "input": 1, "save": 4, "steps": 60, "validation": 0}
    assert goodput.shares() == pytest.approx({kind: x / 100 for kind, x in expected.items()})
    assert goodput.line().startswith("wall time: steps 60%, compile 20%, restore 10%, save 4%")
    assert goodput.line().endswith("other 5% of 100 s")


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"validation.every": 2}, "without config.validation.sources"),
        ({"validation.questions": (ASKED,)}, "every config.validation.every"),
        ({"task": "svlm", "validation.questions": (ASKED,)}, "config.task=tempo or xcomp, not svlm"),
        ({"checkpoints.best": 1}, "needs a validation at each checkpoint"),
        ({"loggers": ("paper",)}, "config.loggers has 'paper': use any of tensorboard, wandb, mlflow"),
    ],
)  # fmt: skip
def test_what_cannot_be_validated_is_said_at_once(tiny_model, changes, sentence):
    with pytest.raises(TempoError, match=sentence):
        configs.check(tiny_training.config(tiny_model, **changes))


def test_a_video_that_is_not_there_is_named_before_the_first_step(tiny_model, tmp_path):
    changes = {"validation.every": 2, "validation.sources": (SOURCE,), "validation.questions": (ASKED,)}
    with pytest.raises(TempoError, match=r"asks about nowhere\.mp4, which is not there"):
        tiny_training.train(tiny_model, tmp_path, **changes)
    assert not (tmp_path / "log.jsonl").exists()


def test_a_video_that_cannot_be_read_is_said_before_the_first_step(tiny_model, tmp_path):
    (tmp_path / "cut.mp4").write_bytes(b"\0" * 64)
    asked = ConfigDict({"video": str(tmp_path / "cut.mp4"), "question": "What?"})
    changes = {"validation.every": 2, "validation.sources": (SOURCE,), "validation.questions": (asked,)}
    with pytest.raises(TempoError, match=r"cut\.mp4"):
        tiny_training.train(tiny_model, tmp_path / "run", **changes)
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_a_video_that_vanishes_meanwhile_stops_no_run(tiny_model, video, tmp_path, monkeypatch):
    states = iter([(1, 1), (1, 1), None])  # before the first step, then at each validation
    monkeypatch.setattr(validation, "_state", lambda _: next(states))
    asked = ConfigDict({"video": video, "question": "What?"})
    changes = {"validation.every": 2, "validation.sources": (SOURCE,), "validation.questions": (asked,)}
    changes |= {"validation.batches": 1, "validation.max_new_tokens": 2, "steps": 4}
    tiny_training.train(tiny_model, tmp_path, **changes)
    first, second = (row["answers"][0]["text"] for row in of(tmp_path))
    assert not first.startswith("(not answered") and second.startswith(
        "(not answered: its video is not there"
    )


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_what_is_not_installed_is_a_sentence(name, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    with pytest.raises(TempoError, match=f"has {name}, which is not installed: pip install {name}"):
        loggers.check([name])


def show(logger):
    logger.numbers(1, {"loss": 2.0})
    logger.text(1, "answers/0", "<b>")
    logger.picture(1, "answers/0/video", np.zeros((4, 6, 3), np.uint8))
    logger.close()


def test_mlflow_really(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: its logger is not tried")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    for _ in range(2):  # the second one goes on with the same run
        show(loggers.LOGGERS["mlflow"].make(tmp_path, 0, {"steps": 1}))
    runs = mlflow.search_runs(experiment_names=["tempo_jax"], output_format="list")
    assert len(runs) == 1 and runs[0].data.metrics == {"loss": 2.0}


def test_wandb_really(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed: its logger is not tried")
    monkeypatch.setenv("WANDB_MODE", "offline")
    show(loggers.LOGGERS["wandb"].make(tmp_path, 0, {"steps": 1}))
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
