"""Preparing data: records to a TFDS data set and back, everything bad named and left out."""

import dataclasses
import json
import pickle
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from tempo_jax import checkpoint
from tempo_jax.data import builders, minireel, records
from tempo_jax.data.batch_packing import BatchShape
from tempo_jax.data.builders import Llava, Minireel
from tempo_jax.data.preparation import BadSample, Limit, Settings
from tempo_jax.data.prepare import main, prepare
from tempo_jax.data.readers.turns import conversation
from tempo_jax.data.records import Encoding, open_prepared
from tempo_jax.data.samples import SampleTooLong
from tempo_jax.errors import TempoError
from tempo_jax.models.config import VideoConfig
from tempo_jax.models.presets import TINY
from tempo_jax.models.resize import resize_image, resize_video
from tempo_jax.prompts import Tokenizer
from tempo_jax.tasks.tempo import collate
from tempo_jax.video import image_size, open_video, resize_steps
from tempo_jax.video.synthetic import encode

LIMITS = VideoConfig(
    max_side=128, min_pixels=4096, max_pixels=4096, image_min_pixels=4096, image_max_pixels=4096
)  # frames of a square video are 64x64
SMALL = Settings(LIMITS, max_frames=24, encoding=Encoding(quality=95))
CHINESE = "图中是什么?🐈"


def turns(question, answer="Yes."):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def record(sample_id, question="What?", answer="Yes.", **media):
    mark = "<image>\n" if media else ""
    return {"id": sample_id, **media, "conversations": turns(mark + question, answer)}


def stripes(index, count, side=64):
    """Frame `index` of a video that brightens; pixels vary, so that resizing shows."""
    pixels = np.full((side, side, 3), 40 + 160 * index // count, np.uint8)
    pixels[:, : side // 4, 0] = 250
    return pixels


def write_lines(path, entries):
    lines = (entry if isinstance(entry, str) else json.dumps(entry) for entry in entries)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    """A folder of a picture and a video of 3 seconds, and what is wrong with others."""
    folder = tmp_path_factory.mktemp("data") / "media"
    folder.mkdir()
    Image.fromarray(stripes(1, 2)).save(folder / "cat.png")
    Image.fromarray(stripes(1, 2)).save(folder.parent / "outside.png")
    (folder / "link.png").symlink_to(folder.parent / "outside.png")
    options = {"x264-params": "bframes=0"}
    encode(folder / "clip.mp4", (stripes(i, 30) for i in range(30)), 10, gop=5, options=options)
    encode(folder / "front.mp4", (stripes(i, 30) for i in range(30)), 10, gop=5, faststart=True)
    whole = (folder / "front.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) * 3 // 4])
    (folder / "headless.mp4").write_bytes((folder / "clip.mp4").read_bytes()[:600])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "half.png").write_bytes((folder / "cat.png").read_bytes()[:60])
    return folder


@pytest.fixture(scope="module")
def prepared(media) -> Path:
    """One sample of each kind, prepared."""
    entries = [
        record("picture", CHINESE, "一只猫。", image="cat.png"),
        record(7, "Wait", video=["clip.mp4"]) | {"conversations": turns("Wait<video>")},
        record("words"),
    ]
    source = media.parent / "good.json"
    source.write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    target = media.parent / "good"
    prepare(lambda **where: Llava(source=source, media=media, settings=SMALL, **where), target)
    return target


@pytest.fixture(scope="module")
def model(tmp_path_factory, demo_tokenizer_dir) -> Path:
    """What of a checkpoint preparing looks at: model.json and the tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    config = dataclasses.replace(TINY, video=LIMITS, context_length=200)
    checkpoint.write_metadata(folder, "tempo", config, demo_tokenizer_dir, None)
    return folder


def skipped(folder) -> dict:
    lines = (folder / "skipped.jsonl").read_text(encoding="utf-8").splitlines()
    return {bad["id"] or bad["where"]: bad for bad in map(json.loads, lines)}


@pytest.mark.parametrize("limits, size", [(LIMITS, (70, 96)), (LIMITS, (50, 30)), (VideoConfig(), (200, 90))])
def test_frames_are_resized_as_the_engine_does(limits, size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    steps, picture = tuple(resize_steps(*size, limits)), image_size(*size, limits)
    on_device = jax.jit(lambda x: (resize_video(x, steps), resize_image(x, picture)))(pixels)
    for ours, theirs in zip((Settings(limits).frame(pixels, image) for image in (False, True)), on_device):
        np.testing.assert_array_equal(ours, np.asarray(theirs))


def test_round_trip_of_an_example_is_exact():
    fps, frames = 29.97 / 7, [Encoding("webp", 100).encode(stripes(i, 3, 32)) for i in range(3)]
    example = records.to_example("标识", "video", turns(CHINESE), frames, fps)
    sample = records.to_sample(example | {name: example[name].encode() for name in ("conversations", "fps")})
    assert sample.real_fps == fps
    assert sample.conversation == turns(CHINESE)
    assert sample.frames.shape == (3, 32, 32, 3)
    levels = sample.frames[:][..., 2].mean((1, 2))
    np.testing.assert_allclose(levels, [40, 93, 146], atol=3)
    np.testing.assert_array_equal(np.asarray(sample.frames)[1:], sample.frames[1:])
    assert sample.frames[3:].shape == (0, 32, 32, 3)


def test_every_kind_comes_back(prepared, media):
    data = open_prepared(str(prepared))
    picture, video, words = (data[i] for i in range(len(data)))
    assert picture.real_fps is None and picture.conversation == turns(f"<image>\n{CHINESE}", "一只猫。")
    expected = SMALL.frame(np.asarray(Image.open(media / "cat.png")), image=True)
    assert np.abs(picture.frames[0].astype(int) - expected).mean() < 4
    source = open_video(media / "clip.mp4", max_frames=24)
    frames = np.stack([SMALL.frame(frame) for frame in next(source.chunks(24))])
    assert video.frames.shape == frames.shape == (6, 64, 64, 3)
    assert np.abs(video.frames[:].astype(int) - frames).mean() < 4
    assert np.all(np.diff(video.frames[:].mean((1, 2, 3))) > 10)  # in order
    assert video.real_fps == source.real_fps == 2.0
    assert video.conversation[0]["value"] == "<image>\nWait"
    assert words.conversation == turns("What?") and words.real_fps is None
    assert words.frames.shape == (1, 64, 64, 3) and (words.frames[0] == 255).all()
    assert skipped(prepared) == {}
    assert data.metadata["counts"]["size 64x64"] == 2
    assert data.metadata["settings"]["video"] == dataclasses.asdict(LIMITS)


def test_prepared_data_travels_to_other_processes(prepared):
    again = pickle.loads(pickle.dumps(data := open_prepared(prepared)))
    np.testing.assert_array_equal(again[1].frames[:], data[1].frames[:])
    with pytest.raises(IndexError):
        data[3]


def bad_records(media) -> list:
    """(reason, what must be in the message, record or line)."""
    shown = record("", image="cat.png")
    return [
        ("broken line", "JSON", '{"id": "x", '),
        ("broken line", "JSON", "[" * 100_000),
        ("malformed record", "list", "[1]"),
        ("malformed record", "both", shown | {"video": "clip.mp4"}),
        ("malformed record", "dict", shown | {"image": {"name": "cat.png"}}),
        ("several media", "2 videos", record("", video=["clip.mp4", "front.mp4"])),
        ("missing media", "dog.png", shown | {"image": "dog.png"}),
        ("missing media", "name", shown | {"image": "a\0b"}),
        ("media outside its folder", "../outside.png", shown | {"image": "../outside.png"}),
        ("media outside its folder", "outside", shown | {"image": str(media.parent / "outside.png")}),
        ("media outside its folder", "link.png", shown | {"image": "link.png"}),
        ("unreadable image", "half.png", shown | {"image": "half.png"}),
        ("unreadable image", "'video'", shown | {"image": "clip.mp4"}),
        ("unreadable video", "'image'", record("", video="cat.png")),
        ("unreadable video", "0 bytes", record("", video="empty.mp4")),
        ("unreadable video", "incomplete", record("", video="headless.mp4")),
        ("damaged video", "cut short", record("", video="cut.mp4")),
        ("empty conversation", "empty", shown | {"conversations": []}),
        ("no conversation", "it has 'image'", {"image": "cat.png"}),
        ("malformed conversation", "neither speaker nor words", shown | {"conversations": ["hello"]}),
        ("malformed conversation", '"value": text', {"conversations": [{"from": "human"}]}),
        ("malformed conversation", "'tool'", {"conversations": [{"from": "tool", "value": "x"}]}),
        ("malformed conversation", "'gpt' is due", shown | {"conversations": turns("<image>")[:1] * 2}),
        ("malformed conversation", "human's", record("", answer="<image>", image="cat.png")),
        ("no answer", "nothing", shown | {"conversations": turns("<image>")[:1]}),
        ("no answer", "nothing", record("", answer=" \n", image="cat.png")),
        ("marks do not match media", "no 'image' or 'video'; it has", record("", "<image> What?")),
        ("impossible clip times", "from 5 to 5", record("", video="clip.mp4", start=5, end=5)),
        ("clip times not understood", "'soon'", record("", video="clip.mp4", start="soon")),
        ("clip times not understood", "counts frames", record("", video="clip.mp4", start_frame=3)),
        ("unreadable video", "outside clip.mp4", record("", video="clip.mp4", start=50, end=60)),
        ("malformed text", "character", record("", "\ud800")),
    ]


def test_bad_samples_are_skipped_and_named(media, tmp_path):
    cases = bad_records(media)
    entries = [e if isinstance(e, str) else e | {"id": f"bad-{n}"} for n, (_, _, e) in enumerate(cases)]
    source = write_lines(tmp_path / "data.jsonl", [*entries, "", record("good")])
    target = tmp_path / "out"
    report = prepare(lambda **where: Llava(source=source, media=media, settings=SMALL, **where), target)
    found = skipped(target)
    assert len(open_prepared(target)) == 1 and len(found) == len(cases)
    for number, (reason, words, entry) in enumerate(cases):
        bad = found[f"line {number + 1}" if isinstance(entry, str) else f"bad-{number}"]
        assert (bad["where"], bad["reason"]) == (f"line {number + 1}", reason), bad
        assert words in bad["message"], bad
    assert "1 sample prepared (1 text), 1 frame of" in report
    assert f"{len(cases)} samples skipped: " in report and "damaged video 1" in report
    assert "media outside its folder 3" in report and "skipped.jsonl" in report


def test_conversations_with_system_and_several_turns():
    given = [{"from": "system", "value": "Be brief."}, *turns("A <image> B"), *turns("C", "D")]
    ours = conversation(given, shows=True)
    assert [turn["value"] for turn in ours] == ["Be brief.", "<image>\nA  B", "Yes.", "C", "D"]
    assert conversation(turns("<video> a <video>"), shows=True)[0]["value"] == "<image>\na"
    twice = conversation([*turns("<image>\nA"), *turns("<image>\nB")], shows=True)
    assert [turn["value"] for turn in twice] == ["<image>\nA", "Yes.", "B", "Yes."]
    unmarked = conversation([*turns("A"), *turns("B")], shows=True)
    assert [turn["value"] for turn in unmarked] == ["<image>\nA", "Yes.", "B", "Yes."]
    late = conversation([*turns("A"), *turns("B <ImageHere>")], shows=True)
    assert [turn["value"] for turn in late] == ["A", "Yes.", "<image>\nB", "Yes."]
    with pytest.raises(BadSample, match="no 'image' or 'video'"):
        conversation(turns("<image>"), shows=False)


def test_limit_counts_what_a_batch_counts(prepared, demo_tokenizer_dir):
    config, tokenizer = dataclasses.replace(TINY, video=LIMITS), Tokenizer(demo_tokenizer_dir)
    for index, kind in ((0, "image"), (1, "video")):
        sample = open_prepared(prepared)[index]
        example = records.to_example("", kind, sample.conversation, sample.frames.files, sample.real_fps)
        tokens = Limit(config, 0, demo_tokenizer_dir)._tokens(example)
        collate([sample], tokenizer, config, BatchShape(1, 2048, 1, tokens))
        with pytest.raises(SampleTooLong, match=" tokens"):
            collate([sample], tokenizer, config, BatchShape(1, 2048, 1, tokens - 1))
        Limit(config, tokens, demo_tokenizer_dir).check(example)
        with pytest.raises(BadSample, match=f"{tokens} tokens of at most {tokens - 1}"):
            Limit(config, tokens - 1, demo_tokenizer_dir).check(example)
        assert Limit(config, 0)._tokens(example) == config.memory_tokens  # no tokenizer, one segment


def test_command_prepares_for_a_checkpoint(media, model, tmp_path, capsys):
    long = record("long", "word " * 200, image="cat.png")
    source = write_lines(tmp_path / "data.jsonl", [record("a", video="clip.mp4"), long, record("b")])
    target = tmp_path / "out"
    options = [f"--source={source}", f"--media={media}", f"--target={target}", f"--checkpoint={model}"]
    assert main([*options, "--max-frames=5", "--encoding=webp", "--quality=80", "--sizes=32x128,64x32"]) == 0
    assert "2 samples prepared (1 text, 1 video), 6 frames" in capsys.readouterr().out
    data = open_prepared(target)
    assert data[0].frames.shape == (5, 64, 32, 3)  # of the two, equally far from square, the larger share
    assert data[0].frames.files[0][8:12] == b"WEBP"
    assert skipped(target)["long"]["reason"] == "too long"


def test_prepared_data_need_no_tensorflow(media, tmp_path):
    program = (
        "import sys\n"
        "from tempo_jax.data import prepare, records\n"
        "assert prepare.main(sys.argv[1:]) == 0\n"
        "assert len(records.open_prepared(sys.argv[2].split('=')[1])[0].frames) == 6\n"
        "import tensorflow_datasets as tfds\n"
        "stored = tfds.builder_from_directory(sys.argv[2].split('=')[1]).as_data_source('train')[0]\n"
        "assert stored['id'] == b'a' and len(stored['frames']) == 6\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    source = write_lines(tmp_path / "data.jsonl", [record("a", video="clip.mp4")])
    options = [f"--source={source}", f"--target={tmp_path / 'out'}", f"--media={media}", "--sizes=64x64"]
    run = subprocess.run([sys.executable, "-c", program, *options], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_the_same_source_makes_the_same_files(media, tmp_path, monkeypatch):
    """With however many workers, and with a shard in which every sample is bad."""
    monkeypatch.setattr(builders, "JOBS_PER_SHARD", 2)
    entries = [record("a"), record("b", image="cat.png"), "{", "{", record("c", video="clip.mp4")]
    source = write_lines(tmp_path / "data.jsonl", entries)
    found = []
    for workers in (0, 2):
        target = tmp_path / f"out{workers}"
        where = {"source": source, "media": media, "settings": SMALL}
        prepare(lambda options=where: Llava(**options), target, workers=workers)
        found.append({path.name: path.read_bytes() for path in target.iterdir()})
    assert len([name for name in found[0] if "array_record" in name]) == 3
    assert found[0] == found[1]
    data = open_prepared(target)
    assert [len(data[i].frames) for i in range(len(data))] == [1, 1, 6]


def test_an_interrupted_run_goes_on(media, tmp_path, monkeypatch):
    """What it had finished is not made again; nothing loads before all is there."""
    monkeypatch.setattr(builders, "JOBS_PER_SHARD", 1)
    source = write_lines(tmp_path / "data.jsonl", [record("a"), record("b"), record("c")])
    made = []

    def run(**changes):
        return prepare(lambda: Llava(source=source, settings=SMALL), tmp_path / "out", **changes)

    def dummy(settings, original=Settings.dummy):
        made.append(1)
        if len(made) == 2:
            raise KeyboardInterrupt
        return original(settings)

    with monkeypatch.context() as patch:
        patch.setattr(Settings, "dummy", dummy)
        with pytest.raises(KeyboardInterrupt):
            run()
        assert not (tmp_path / "out").exists() and len(made) == 2
        with pytest.raises(TempoError, match="part of a set that was prepared from other"):
            prepare(lambda: Llava(source=source), tmp_path / "out")
        run()
    assert len(made) == 4  # the second and the third
    assert len(open_prepared(tmp_path / "out")) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.jsonl", "out"]
    assert "3 samples prepared already" in run()


def test_what_an_older_version_left_is_taken_away(media, tmp_path):
    source = write_lines(tmp_path / "data.jsonl", [record("a")])
    killed = tmp_path / ".out.incomplete" / "work"
    killed.mkdir(parents=True)
    prepare(lambda: Llava(source=source, settings=SMALL), tmp_path / "out")
    assert len(open_prepared(tmp_path / "out")) == 1 and not killed.exists()
    assert not (tmp_path / "out" / "work").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_leaves_nothing_and_one_line(tmp_path, workers):
    """While samples are made, by this process or by others."""
    target = tmp_path / "out"
    command = [sys.executable, "-m", "tempo_jax.data.prepare", "--minireel=train", "--count=10000"]
    options = ["--seconds=16", "--model=demo", f"--target={target}", f"--workers={workers}"]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as live:
        try:
            until = time.monotonic() + 120
            while not list((tmp_path / ".out.incomplete").rglob("*.array_record*")):
                assert live.poll() is None and time.monotonic() < until, live.stderr.read()
                time.sleep(0.05)
            live.terminate()
            told = live.communicate(timeout=120)[1]
        finally:
            live.kill()
    assert live.returncode == 143 and told.splitlines()[-1].startswith("prepare: "), told
    assert "Traceback" not in told and list(tmp_path.iterdir()) == []


def test_minireel_examples_are_the_reels(tmp_path):
    where = {"split": "train", "count": 2, "seconds": 16, "size": 64, "forms": ("choice", "text")}
    prepare(lambda **folder: Minireel(**where, settings=SMALL, **folder), tmp_path / "out")
    data, made = open_prepared(tmp_path / "out"), {"seconds": 16, "size": 64, "max_frames": 24}
    expected = list(minireel.records("train", 2, forms=("choice", "text"), **made))
    assert len(data) == len(expected) > 4
    for sample, entry in zip(data, expected):
        question, answer = entry["conversations"]
        assert sample.conversation[0]["value"] == question["value"].replace("<video>", "<image>")
        assert sample.conversation[1] == answer
    reel = minireel.make("train", 1, **made)
    indices = np.round(np.linspace(0, 31, 24)).astype(int)
    frames = np.stack([SMALL.frame(frame) for frame in reel.frames(indices)])
    assert np.abs(sample.frames[:].astype(int) - frames).mean() < 5
    assert sample.real_fps == 24 / 16


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda folder, file: file.unlink(), "damaged"),
        (lambda folder, file: file.write_bytes(file.read_bytes()[:65536]), "holds 0 of 3 records"),
        (lambda folder, file: file.write_bytes(file.read_bytes()[:1000]), "damaged"),
        (lambda folder, file: (folder / "dataset_info.json").write_text("{"), "damaged"),
        (lambda folder, file: (folder / "dataset_info.json").unlink(), "is not a prepared data set"),
        (lambda folder, file: (folder / "metadata.json").write_text("{}"), "this version's"),
    ],
)
def test_damaged_data_sets_are_a_sentence(prepared, tmp_path, damage, words):
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in prepared.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    damage(folder, next(folder.glob("*array_record*")))
    with pytest.raises(TempoError, match=words) as caught:
        open_prepared(folder)
    assert "\n" not in str(caught.value) and "prepare" in str(caught.value)


def test_a_damaged_record_is_a_sentence(prepared, tmp_path):
    with pytest.raises(TempoError, match="There is no prepared data set"):
        open_prepared(tmp_path / "nothing")
    data = open_prepared(prepared)
    broken = records.EncodedFrames([data[0].frames.files[0], b"no image"])
    with pytest.raises(TempoError, match="damaged"):
        broken[1]
    data._source = [{"fps": b"x", "frames": [], "conversations": b"{"}]
    with pytest.raises(TempoError, match=r"Record 0 .* cannot be read"):
        data[0]


MISTAKES = {
    "": "one of the arguments --source --minireel is required",
    "--source={good} --minireel=train": "not allowed with",
    "--source={media}/none.json": "cannot be read",
    "--source={broken}": "is no valid JSON",
    "--source={empty}": "holds no records",
    "--source={allbad}": "2 samples skipped: broken line 1, missing media 1 (first, line 1:",
    "--source={good} --media={media}/none": "no media folder",
    "--source=s3://bucket/data.jsonl": "--source s3://bucket/data.jsonl is in s3:// storage",
    "--source={good} --media=https://host/x": "--media https://host/x is in https:// storage",
    "--source={good} --format=song": "invalid choice: 'song'",
    "--source={good} --format=webdataset": "is no whole, unpacked tar",
    "--source={good} --sizes=64": "HEIGHTxWIDTH",
    "--source={good} --sizes=64x60": "multiples of 32",
    "--source={good} --quality=101": "must be 1 to 100",
    "--source={good} --fps=0": "--fps",
    "--source={good} --model=tiny --checkpoint=x": "exclude each other",
    "--source={good} --checkpoint={media}": "model.json",
    "--minireel=nothing": "no split 'nothing'",
    "--minireel=train --forms=song": "no form 'song'",
    "--minireel=train --seconds=2": "between 8",
    "--source={good} --target={media}": "exists already",
}


@pytest.mark.parametrize("options, words", MISTAKES.items())
def test_mistakes_are_one_sentence(options, words, media, prepared, tmp_path, capsys):
    places = {"good": prepared.parent / "good.json", "media": media}
    contents = {
        "broken": '[{"id": 1},',
        "empty": "\n",
        "allbad": '{\n{"image": "no.png", "conversations": []}',
    }
    contents["allbad"] = "{\n" + json.dumps(record("x", image="no.png"))
    for name, text in contents.items():
        places[name] = tmp_path / f"{name}.json"
        places[name].write_text(text, encoding="utf-8")
    target = tmp_path / "out"
    assert main([f"--target={target}", *options.format(**places).split()]) == 2
    said = capsys.readouterr()
    assert words in said.err and said.err.count("\n") == 1 and not said.out
    assert not target.exists()


def test_a_full_disk_is_a_sentence(media, tmp_path, monkeypatch, capsys):
    """array_record knows RuntimeError only, in a process of its own."""
    source = write_lines(tmp_path / "data.jsonl", [record("a", image="cat.png")])
    limited = tmp_path.parent / f"{tmp_path.name}-python"
    limited.write_text(f'#!/bin/sh\nulimit -f 0\nexec {sys.executable} "$@"\n')
    limited.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(limited))
    assert main([f"--source={source}", f"--media={media}", f"--target={tmp_path / 'out'}"]) == 2
    said = capsys.readouterr().err
    assert "File too large" in said and said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["data.jsonl"]


def test_command_prepares_for_an_xcomp(media, demo_tokenizer_dir, tmp_path, capsys):
    """Its checkpoint says at which size it sees frames, and how many tokens they take."""
    from tests.xcomp_systems import MICRO

    (tmp_path / "x").mkdir()
    checkpoint.write_metadata(tmp_path / "x", "xcomp", MICRO, demo_tokenizer_dir, None)
    source = write_lines(
        tmp_path / "data.jsonl", [record("a", video="clip.mp4"), record("b", image="cat.png")]
    )
    options = [f"--source={source}", f"--media={media}", f"--checkpoint={tmp_path / 'x'}", "--fps=8"]
    assert main([*options, f"--target={tmp_path / 'out'}", "--min-frames=16"]) == 0
    data = open_prepared(tmp_path / "out")
    assert data[0].frames.shape == (24, 64, 64, 3) and data[1].frames.shape == (1, 64, 64, 3)
    assert main([*options, f"--target={tmp_path / 'few'}", "--max-tokens=300"]) == 0
    assert list(skipped(tmp_path / "few")) == ["a"]  # 24 frames of 16 tokens
