"""Tasks refuse what they cannot train on, by name; a resumed run refuses another data set."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tempo_jax import checkpoint
from tempo_jax.data import prepare as command
from tempo_jax.data.records import open_prepared
from tempo_jax.data.samples import Sample
from tempo_jax.errors import TempoError
from tempo_jax.models import build
from tempo_jax.tasks import TASKS, Batches
from tempo_jax.training import loop
from tempo_jax.training.config import default
from tests import tiny_training as tiny
from tests.xcomp_systems import MICRO, moving

pytestmark = pytest.mark.usefixtures("quick_compilation")
ASKED = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A field."}]
SHOWN = [{"from": "human", "value": "<image>\nWhat?"}, ASKED[1]]


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Folders of prepared sets: shown (3 pictures, 1 in words), words, other (as shown, another picture)."""
    root = tmp_path_factory.mktemp("sets")
    for name, level in (("shown", 60), ("other", 61), ("again", 60)):
        folder = root / f"{name}_media"
        folder.mkdir()
        Image.fromarray(np.full((64, 64, 3), level, np.uint8)).save(folder / "a.png")
        records = [{"id": i, "image": "a.png", "conversations": SHOWN} for i in range(3)]
        write(root, name, [*records, {"id": 3, "conversations": ASKED}], folder)
    write(root, "words", [{"id": i, "conversations": ASKED} for i in range(4)], root)
    for name, count in (("short", 8), ("long", 64)):
        np.save(root / f"{name}.npy", moving(count))
    videos = [{"id": n, "video": f"{n}.npy", "conversations": SHOWN} for n in ("short", "long")]
    write(root, "videos", videos, root)
    return root


def write(root, name, records, media):
    source = root / f"{name}.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    words = [f"--source={source}", f"--media={media}", f"--target={root / name}", "--sizes=32x32"]
    assert command.main([*words, "--fps=8", "--max-frames=64"]) == 0


def config(task, *paths):
    values = default()
    values.task = task
    values.batch.update({"shards": 1, "pool": 2, "row_length": 256, "conversations": 1, "length": 256})
    values.data.update({"workers": 0, "window": 2, "threads": 1})
    values.data.sources = tuple({"kind": "prepared", "path": str(path)} for path in paths)
    return values


MODELS = {"svlm": "compressor", "llm": "llm", "align": None, "tempo": None}


@pytest.mark.parametrize(
    "task, name, sentence",
    [
        ("llm", "videos", "videos has samples of 2 video, but config.task=llm takes samples of text: use a"),
        (
            "svlm",
            "shown",
            "shown has samples of 3 image, 1 text, but config.task=svlm takes no prepared sets",
        ),
        (
            "align",
            "shown",
            "config.task=align takes no prepared sets: use a config with the task tempo or llm",
        ),
        (
            "xcomp",
            "words",
            "config.task=xcomp takes samples of image or video: use a config with the task tempo",
        ),
    ],
)
def test_a_set_that_a_task_cannot_train_on_is_refused_by_name(task, name, sentence, sets, tokenizer):
    with pytest.raises(TempoError, match=sentence) as caught:
        Batches(config(task, sets / name), tokenizer, None, [0])
    assert "\n" not in str(caught.value)


def test_of_a_mixed_set_a_task_takes_what_it_can(sets, tokenizer):
    """Words under llm, pictures under xcomp; the others are skipped and counted."""
    data = Batches(config("llm", sets / "shown"), tokenizer, None, [0])
    batch = next(data)
    assert (batch.token_ids_BL >= 0).all()
    assert any("the task llm takes conversations in words" in reason for reason in data.stats["skipped"])
    data.close()
    data = Batches(config("xcomp", sets / "shown"), tokenizer, MICRO, [0])
    for _ in range(6):
        assert next(data).frames_B.ravel().tolist() == [1]
    assert any("words alone" in reason for reason in data.stats["skipped"])
    data.close()


def test_xcomp_leaves_out_words_and_several_pictures_as_published(tokenizer):
    picture = moving(1)
    for sample, words in (
        (Sample(picture, None, ASKED), "words alone"),
        (Sample(moving(8), 2.0, SHOWN, pictures=True), "several pictures"),
    ):
        with pytest.raises(ValueError, match=words):
            TASKS["xcomp"].sample_size(sample, tokenizer, MICRO)
    assert TASKS["xcomp"].sample_size(Sample(picture, None, SHOWN), tokenizer, MICRO).segments == 0


@pytest.mark.parametrize(
    "leading",
    [[{"from": "system", "value": "Be brief."}], [{"from": "gpt", "value": "Hello."}], []],
    ids=["system", "gpt", "none"],
)
def test_xcomps_time_message_with_leading_turns(leading, tokenizer):
    """It stands where the video does, in the first human turn; leading turns are dropped, as published."""
    shape = config("xcomp").batch
    from tempo_jax.data.batch_packing import Shape

    shape = Shape(shape.pool, shape.row_length, 1, 1)
    sample = Sample(moving(16), 2.0, [*leading, *SHOWN])
    batch = TASKS["xcomp"].collate([sample], tokenizer, MICRO, shape)
    text = tokenizer.decode(batch.text_BS[0])
    message = "The video lasts for 8.00 seconds, and 16 frames are uniformly sampled from it."
    expected = tokenizer.decode(tokenizer.encode(f"\n{message} \nWhat?"))
    assert expected in text and text.count(tokenizer.decode(tokenizer.encode("video lasts"))) == 1
    plain = TASKS["xcomp"].collate([Sample(moving(16), 2.0, SHOWN)], tokenizer, MICRO, shape)
    np.testing.assert_array_equal(batch.text_BS, plain.text_BS)
    late = [*ASKED, *SHOWN]  # of two questions the second one shows the video
    text = tokenizer.decode(
        TASKS["xcomp"].collate([Sample(moving(16), 2.0, late)], tokenizer, MICRO, shape).text_BS[0]
    )
    assert text.index(tokenizer.decode(tokenizer.encode("What?"))) < text.index(expected)


def test_sizes_as_a_command_line_gives_them(sets, tokenizer):
    values = config("xcomp", sets / "shown")
    values.batch.sizes = ("32x32",)
    data = Batches(values, tokenizer, MICRO, [0])
    assert next(data).images_BHWC.shape[2:4] == (32, 32)
    data.close()
    for wrong in ("32", "32xx32", "wide"):
        values.batch.sizes = (wrong,)
        with pytest.raises(
            TempoError, match=f"config.batch.sizes has '{wrong}': give height and width, as 64x64"
        ):
            Batches(values, tokenizer, MICRO, [0])


def test_another_set_of_the_same_length_is_refused_by_name(sets, tmp_path):
    assert [len(open_prepared(sets / name)) for name in ("shown", "other", "again")] == [4, 4, 4]
    tiny.write_model(tmp_path)

    def values(name):
        made = tiny.config(tmp_path / "model", steps=4, **{"data.workers": 0, "data.window": 2})
        made.checkpoint_every = 1
        made.batch.update({"shards": 1, "pool": 2, "row_length": 256, "length": 256})
        made.data.sources = ({"kind": "prepared", "path": str(sets / name)},)
        return made

    work = tmp_path / "work"
    assert loop.train(values("shown"), work, Batches) == "finished"
    whole = tiny.curve(work)
    shutil.rmtree(work / "checkpoints" / "4")  # as if it had been killed before it was whole
    shutil.rmtree(work / "model", ignore_errors=True)
    with pytest.raises(TempoError, match=r"not those of the saved state: source 1, .*/other, had 4 samples"):
        loop.train(values("other"), work, Batches)
    # Prepared again from the same files, elsewhere, it is the same set.
    assert open_prepared(sets / "again").fingerprint == open_prepared(sets / "shown").fingerprint
    assert loop.train(values("again"), work, Batches) == "finished"
    assert tiny.curve(work) == whole


def test_xcomp_trains_with_length_buckets(sets, tmp_path, tokenizer):
    """Steps of two shapes in one run; every step is finite and the padding that is told is the pool's."""
    from tempo_jax.data.minireel import tokenizer as minireel_tokenizer

    minireel_tokenizer.write(tmp_path / "tokenizer")
    params = build.parameters(build.init(MICRO, seed=3))
    checkpoint.save(tmp_path / "model", "xcomp", MICRO, params, tmp_path / "tokenizer")
    values = config("xcomp", sets / "videos")
    values.init.checkpoint = str(tmp_path / "model")
    values.rates.update({"projector": 1e-3, "llm": 1e-3})
    values.batch.update({"pool": 8, "buckets": (1, 8)})
    values.update({"steps": 6, "dtype": "float32", "log_every": 1, "checkpoint_every": 3})
    values.mesh.fsdp = 1
    assert loop.train(values, tmp_path / "work", Batches) == "finished"
    found = tiny.rows(tmp_path / "work")
    assert len(found) == 6 and all(np.isfinite(row["loss"]) for row in found)
    data = Batches(values, tokenizer, MICRO, [0])
    shapes = {next(data).frames_B.shape[1:] for _ in range(len(data._recipe.cycle))}
    assert shapes == {(16,), (1,)}
    data.close()
