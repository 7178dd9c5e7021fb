"""Data sets as they lie on disk: every format prepared, trained on and read back; clip times; mixtures."""

import json

import numpy as np
import pytest

from tempo_jax.data import prepare as command
from tempo_jax.data import readers
from tempo_jax.data.preparation import BadSample
from tempo_jax.data.readers.clips import clip_of
from tempo_jax.data.records import open_prepared
from tempo_jax.errors import TempoError
from tempo_jax.models.config import PADDING_ID
from tempo_jax.prompts import Tokenizer
from tempo_jax.tasks import Batches
from tempo_jax.training import loop
from tempo_jax.video import open_video
from tests import data_formats as formats
from tests import tiny_training as tiny

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    return formats.write_media(tmp_path_factory.mktemp("media") / "files")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny.write_model(folder)
    return folder


def prepared(source, target, media, *options):
    words = [
        f"--source={source}",
        f"--media={media}",
        f"--target={target}",
        "--sizes=32x32",
        "--max-frames=8",
    ]
    assert command.main([*words, *options]) == 0
    return open_prepared(target)


def test_the_command_names_every_format():
    assert command.FORMATS == readers.FORMATS


@pytest.mark.parametrize("name", formats.FORMATS)
def test_every_format_is_prepared_trained_on_and_read_back(name, media, place, tmp_path):
    write, form, kinds = formats.FORMATS[name]
    source = write(tmp_path, media)
    data = prepared(source, tmp_path / "auto", media)
    named = prepared(source, tmp_path / "named", media, f"--format={form}")
    assert [data[i].conversation for i in range(len(data))] == [
        named[i].conversation for i in range(len(named))
    ]
    counts = {k.removeprefix("kind "): n for k, n in data.metadata["counts"].items() if k.startswith("kind ")}
    assert counts == kinds
    config = tiny.config(place / "model", steps=2, **{"data.workers": 0, "data.window": 4})
    config.batch.update({"shards": 1, "pool": 2, "row_length": 256, "length": 256})
    config.data.sources = ({"kind": "prepared", "path": str(tmp_path / "auto")},)
    tokenizer = Tokenizer(place / "tokenizer")
    batch = next(Batches(config, tokenizer, tiny.architecture(1), [0]))
    ids = batch.token_ids_BL[0, 0]
    text = tokenizer.decode(ids[(batch.memory_index_BL[0, 0] < 0) & (ids != PADDING_ID)])
    assert f"assistant\n{formats.ANSWER}\n" in text
    if name != "webdataset":  # of which one sample is a caption
        assert formats.HUMAN in text
    assert not any(mark in text for mark in ("<video>", "<image>"))
    assert loop.train(config, tmp_path / "work", Batches) == "finished"
    assert [np.isfinite(row["loss"]) for row in tiny.rows(tmp_path / "work")] == [True, True]


def test_clip_times_reach_frames_and_time_tags(media, tmp_path):
    """The frames are the clip's, and their times count from its start: as a file of its own would give."""
    data = prepared(formats.videochat2(tmp_path, media), tmp_path / "out", media)
    levels = data[0].frames[:].mean((1, 2, 3))
    assert levels.min() >= 3 * 20 - 4 and levels.max() <= 3 * 36 + 4  # of 5 to 9 s, four frames a second
    source = open_video(media / "clip.mp4", clip=(5, 9), max_frames=8)
    assert data[0].real_fps == source.real_fps == 2.0
    assert data[0].segments(8) == list(source.segments(8))
    assert [turn["value"] for turn in data[0].conversation] == [
        f"<image>\n{formats.HUMAN}", formats.ANSWER, "Be brief.\nAnd then?", "It is brighter.",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "record, clip",
    [
        ({}, None),
        ({"start": None, "end": None}, None),
        ({"start": 1, "end": 2.5}, (1, 2.5)),
        ({"start": "1.5", "end": "3.25s"}, (1.5, 3.25)),
        ({"start_time": "00:01:02.5", "end_time": "01:03"}, (62.5, 63)),
        ({"video_start": 3, "video_end": 4}, (3, 4)),
        ({"start_sec": 3, "end_sec": 4}, (3, 4)),
        ({"clip_start": 3, "clip_end": 4}, (3, 4)),
        ({"begin": 3, "end": 4}, (3, 4)),
        ({"timestamp": [3, 4]}, (3, 4)),
        ({"timestamps": ["00:00:03", "00:00:04"]}, (3, 4)),
        ({"timestamp": "[3.0, 4.0]"}, (3, 4)),
        ({"timestamp": "0:03-0:04"}, (3, 4)),
        ({"clip": {"start": 3, "end": 4}}, (3, 4)),
        ({"start": 3}, (3, 1e9)),
        ({"end": 4}, (0, 4)),
        ({"start": 3, "end": 4, "timestamp": [3, 4]}, (3, 4)),
    ],
)
def test_spellings_of_clip_times(record, clip):
    assert clip_of({"video": "v.mp4"} | record) == clip


@pytest.mark.parametrize(
    "record, sentence",
    [
        ({"start": "noon", "end": 4}, "its 'start' is 'noon'"),
        ({"start": True, "end": 4}, "its 'start' is True"),
        ({"start": float("nan"), "end": 4}, "its 'start' is nan"),
        ({"timestamp": 4}, "its 'timestamp' is 4"),
        ({"timestamps": [1, 2, 3]}, "its 'timestamps' is"),
        ({"start": 3, "end": 4, "timestamp": [3, 5]}, "do not agree"),
        ({"start": 3, "start_time": 4, "end": 9}, "do not agree"),
        ({"start_frame": 3, "end_frame": 9}, "counts frames"),
        ({"start": 4, "end": 3}, "from 4 to 3 s"),
        ({"start": -4, "end": 3}, "from -4 to 3 s"),
    ],
)
def test_clip_times_that_are_not_understood_are_refused(record, sentence):
    with pytest.raises(BadSample, match=sentence):
        clip_of({"video": "v.mp4"} | record)


def skipped(folder):
    return [json.loads(line) for line in (folder / "skipped.jsonl").read_text("utf-8").splitlines()]


def test_a_skipped_record_names_what_it_lacks_and_has(media, tmp_path):
    lines = [
        {"vid": "a", "utterances": []},
        {"id": "t", "conversations": formats.talk("<image>\n"), "picture": "cat.png"},
        {"id": "ok", "conversations": formats.talk()},
    ]
    source = tmp_path / "x.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    prepared(source, tmp_path / "out", media)
    first, second = skipped(tmp_path / "out")
    assert first["message"] == (
        "it has none of the keys 'QA', 'messages', 'conversations', 'conversation', 'question', 'answer', "
        "'caption'; it has 'vid', 'utterances'"
    )
    assert second["message"] == (
        "a turn has <image>, but the record has no 'image' or 'video'; it has 'id', 'conversations', "
        "'picture'"
    )
    with pytest.raises(BadSample, match="it has none of the keys 'QA'; it has 'id', 'conversations'"):
        readers.turns_of({"id": 1, "conversations": formats.talk()}, "videochat2")


def test_several_pictures_are_frames_and_xcomp_leaves_them_out(media, tmp_path):
    data = prepared(formats.several_images(tmp_path, media), tmp_path / "out", media)
    assert data[0].pictures and data[0].frames.shape == (2, 32, 32, 3)
    assert data[0].frames[:].mean((1, 2, 3)).round().tolist() == pytest.approx([60, 200], abs=3)


def test_mixtures_choose_and_repeat(media, tmp_path):
    lines = "".join(json.dumps({"id": f"r{i}", "conversations": formats.talk()}) + "\n" for i in range(8))
    (tmp_path / "a.jsonl").write_text(lines)

    def ids(text):
        (tmp_path / "m.yaml").write_text(text)
        data = readers.read(tmp_path / "m.yaml")
        return [json.loads(entry.content)["id"] for entry in data.entries]

    assert ids("- {json_path: a.jsonl, sampling_strategy: 'first:2'}") == ["r0", "r1"]
    assert ids("- {path: a.jsonl, sampling_strategy: 'end:25%'}") == ["r6", "r7"]
    assert len(set(ids("- {annotation: a.jsonl, sampling_strategy: 'random:3'}"))) == 3
    assert len(ids("- {json_path: a.jsonl, weight: 2.5}")) == 20
    assert len(ids("x: {annotation: a.jsonl, root: ., repeat_time: 0.5}\ny: {annotation: a.jsonl}")) == 12
    twice = "datasets: [{json_path: a.jsonl, sampling_strategy: 'random:3'}]"
    assert ids(twice) == ids(twice)


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("a: [", "is no valid YAML"),
        ("datasets: []", "names no sources"),
        ("just words", "names no sources"),
        ("- words", "source 1 is 'words'"),
        ("- {media: x}", "source 1 has none of the keys json_path, .*; it has media"),
        ("- {json_path: a.jsonl, sampling_strategy: most}", "its sampling_strategy is 'most'"),
        ("- {json_path: a.jsonl, weight: heavy}", "its weight or fps is no number"),
        ("- {json_path: a.jsonl, weight: 0}", "is not above 0"),
        ("- {json_path: none.jsonl}", "none.jsonl cannot be read"),
        ("- {json_path: m.yaml}", "names the mixture"),
        ("- {json_path: a.jsonl, sampling_strategy: 'first:0'}", "chooses no records"),
        ("- {json_path: a.jsonl, format: song}", "There is no format 'song'"),
    ],
)
def test_mistakes_in_mixtures_are_one_sentence(text, sentence, tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"conversations": formats.talk()}) + "\n")
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(TempoError, match=sentence) as caught:
        readers.read(tmp_path / "m.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.parquet", "a.tar", "a.jsonl.gz"])
def test_damaged_files_are_one_sentence(name, tmp_path):
    (tmp_path / name).write_bytes(b"\x1f\x8b" + b"nothing of the kind" * 9)
    with pytest.raises(TempoError, match="get a complete copy"):
        readers.read(tmp_path / name)


def test_folders_of_shards_are_read_in_order(media, tmp_path):
    (tmp_path / "shards").mkdir()
    for i in (1, 0):
        formats.onevision(tmp_path, media).rename(tmp_path / "shards" / f"{i}.parquet")
    (tmp_path / "shards" / "dataset_infos.json").write_text("{}")
    data = readers.read(tmp_path / "shards", media)
    where = [entry.where for entry in data.entries]
    assert where == [f"{file}.parquet, row {row}" for file in (0, 1) for row in (1, 2, 3)]
