"""A tiny real example of every format that data sets lie on disk in; media are those of `write_media`."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

from tempo_jax.video.synthetic import encode

HUMAN, ANSWER = "What is shown?", "A bright field."


def picture(level: int) -> Image.Image:
    return Image.fromarray(np.full((64, 64, 3), level, np.uint8))


def write_media(folder: Path) -> Path:
    """cat.png, dog.jpg, clip.mp4 (20 s, 4 per second, brighter and brighter) and frames/0.jpg to 9.jpg."""
    (folder / "frames").mkdir(parents=True)
    picture(60).save(folder / "cat.png")
    picture(200).save(folder / "dog.jpg")
    for i in range(10):
        picture(20 * i).save(folder / "frames" / f"{i}.jpg")
    frames = (np.full((64, 64, 3), 3 * i, np.uint8) for i in range(80))
    encode(folder / "clip.mp4", frames, 4, gop=8)
    return folder


def talk(mark: str = "", who=("human", "gpt"), keys=("from", "value")) -> list[dict]:
    return [{keys[0]: who[0], keys[1]: mark + HUMAN}, {keys[0]: who[1], keys[1]: ANSWER}]


def _png(media: Path, name: str = "cat.png") -> bytes:
    return (media / name).read_bytes()


def _jsonl(path: Path, *records: dict) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def llava_json(folder: Path, media: Path) -> Path:
    path = folder / "llava.json"
    path.write_text(
        json.dumps([{"id": 1, "image": "cat.png", "conversations": talk("<image>\n")}]), "utf-8-sig"
    )
    return path


def llava_jsonl(folder: Path, media: Path) -> Path:
    return _jsonl(folder / "llava.jsonl", {"id": 1, "video": "clip.mp4", "conversations": talk("<video>\n")})


def llava_gz(folder: Path, media: Path) -> Path:
    path = folder / "llava.jsonl.gz"
    path.write_bytes(gzip.compress(llava_jsonl(folder, media).read_bytes()))
    return path


def messages_text(folder: Path, media: Path) -> Path:
    turns = talk("<image>", ("user", "assistant"), ("role", "content"))
    system = {"role": "system", "content": "Be brief."}
    return _jsonl(folder / "m.jsonl", {"messages": [system, *turns], "images": ["cat.png"]})


def messages_parts(folder: Path, media: Path) -> Path:
    asked = [{"type": "video", "video": "clip.mp4"}, {"type": "text", "text": HUMAN}]
    said = [{"type": "text", "text": ANSWER}]
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    return _jsonl(folder / "parts.jsonl", {"messages": turns})


def role_content(folder: Path, media: Path) -> Path:
    turns = talk("", ("user", "assistant"), ("role", "content"))
    return _jsonl(folder / "rc.jsonl", {"image": "cat.png", "conversations": turns})


def sharegpt_names(folder: Path, media: Path) -> Path:
    return _jsonl(
        folder / "s.jsonl", {"conversations": talk("<video>", ("user", "assistant")), "videos": ["clip.mp4"]}
    )


def sharegpt_one(folder: Path, media: Path) -> Path:
    pair = {"human": HUMAN, "assistant": ANSWER}
    return _jsonl(folder / "o.jsonl", {"conversation": [pair], "image_path": "cat.png"})


def videochat2(folder: Path, media: Path) -> Path:
    path = folder / "vc2.json"
    qa = [{"i": "", "q": HUMAN, "a": ANSWER}, {"i": "Be brief.", "q": "And then?", "a": "It is brighter."}]
    path.write_text(json.dumps([{"video": "clip.mp4", "QA": qa, "start": 5.0, "end": 9.0}]))
    return path


def onevision(folder: Path, media: Path) -> Path:
    rows = [
        {"id": f"{i}", "image": {"bytes": _png(media), "path": "x/cat.png"}, "data_source": "s",
         "conversations": talk("<image>\n")}
        for i in range(3)
    ]  # fmt: skip
    parquet.write_table(pa.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet", row_group_size=2)
    return folder / "train-00000-of-00001.parquet"


def webdataset(folder: Path, media: Path) -> Path:
    path = folder / "0000.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in (
            ("000.json", json.dumps({"conversations": talk("<image>\n"), "image": "elsewhere.png"}).encode()),
            ("000.png", _png(media)),
            ("001.mp4", _png(media, "clip.mp4")),
            ("001.txt", ANSWER.encode()),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def pairs(folder: Path, media: Path) -> Path:
    return _jsonl(folder / "p.jsonl", {"question": HUMAN, "answer": ANSWER, "video": "clip"})


def several_images(folder: Path, media: Path) -> Path:
    turns = talk("<image>\n<image>\n")
    return _jsonl(
        folder / "multi.jsonl", {"id": "m", "image": ["cat.png", "dog.jpg"], "conversations": turns}
    )


def frame_list(folder: Path, media: Path) -> Path:
    frames = [f"frames/{i}.jpg" for i in range(10)]
    return _jsonl(folder / "f.jsonl", {"video": frames, "conversations": talk("<video>\n")})


def no_mark(folder: Path, media: Path) -> Path:
    return _jsonl(folder / "n.jsonl", {"video": "clip.mp4", "conversations": talk()})


def repeated_mark(folder: Path, media: Path) -> Path:
    return _jsonl(
        folder / "r.jsonl", {"video": "clip.mp4", "conversations": [*talk("<video>\n"), *talk("<video>\n")]}
    )


def mixture(folder: Path, media: Path) -> Path:
    llava_jsonl(folder, media), onevision(folder, media)
    (folder / "mix.yaml").write_text(
        f"""datasets:
  - json_path: llava.jsonl
    data_root: {media}
    weight: 2
  - json_path: train-00000-of-00001.parquet
    sampling_strategy: first:50%
"""
    )
    return folder / "mix.yaml"


# Name -> (what writes it, the reader it may be asked for by, samples by kind).
FORMATS = {
    "llava, json": (llava_json, "llava", {"image": 1}),
    "llava, jsonl": (llava_jsonl, "llava", {"video": 1}),
    "llava, gz": (llava_gz, "llava", {"video": 1}),
    "messages": (messages_text, "messages", {"image": 1}),
    "messages, parts": (messages_parts, "messages", {"video": 1}),
    "role and content": (role_content, "messages", {"image": 1}),
    "sharegpt, names": (sharegpt_names, "sharegpt", {"video": 1}),
    "sharegpt, pairs": (sharegpt_one, "sharegpt", {"image": 1}),
    "videochat2": (videochat2, "videochat2", {"video": 1}),
    "onevision": (onevision, "parquet", {"image": 3}),
    "webdataset": (webdataset, "webdataset", {"image": 1, "video": 1}),
    "pairs": (pairs, "pairs", {"video": 1}),
    "several images": (several_images, "llava", {"video": 1}),
    "frame list": (frame_list, "llava", {"video": 1}),
    "no mark": (no_mark, "llava", {"video": 1}),
    "repeated mark": (repeated_mark, "llava", {"video": 1}),
    "mixture": (mixture, "mixture", {"video": 2, "image": 2}),
}
