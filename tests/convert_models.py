"""Tiny random models of every kind as folders: by transformers' classes where it has them.

The config.json texts of 4.57 are recorded (golden/convert/configs_4_57.json: what transformers 4.57.1 wrote
for these very sizes); those of 5 are written by the installed transformers.
"""

import copy
import dataclasses
import functools
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from convert import hf_export
from tempo_jax.models import presets as cfg
from tests import tiny_checkpoints
from tests.torch_reference import randomise
from tests.xcomp_systems import tensor as xcomp_tensor

RECORDED = Path(__file__).parent / "golden" / "convert" / "configs_4_57.json"
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
INDEX = "model.safetensors.index.json"


@functools.cache
def recorded() -> dict[str, dict]:
    return json.loads(RECORDED.read_text())


@functools.cache
def qwen(kind: str, tied: bool):
    """A transformers model of the recorded sizes, in float32 with weights of a useful size."""
    import transformers

    values = copy.deepcopy(recorded()[f"{kind} tied={tied}"])
    classes = {
        "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
        "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
        "qwen3-vl": (transformers.Qwen3VLConfig, transformers.Qwen3VLForConditionalGeneration),
    }
    config, model = classes[kind]
    made = model(config.from_dict(values)).eval()
    randomise(made, 1)
    return made


TEMPO = tiny_checkpoints.tiny_config(8, tiny_checkpoints.SMALL)
TEMPO = dataclasses.replace(
    TEMPO,
    llm=dataclasses.replace(TEMPO.llm, vocab_size=512, num_layers=2),
    projector="mlp2x_gelu",
)
XCOMP = dataclasses.replace(
    cfg.XCOMP_TINY,
    vision=dataclasses.replace(
        cfg.XCOMP_TINY.vision, hidden_size=64, intermediate_size=64, depth=1, num_heads=1
    ),
    llm=dataclasses.replace(cfg.XCOMP_TINY.llm, vocab_size=512, num_layers=3),
)


def _untied(config, tied: bool):
    return dataclasses.replace(config, llm=dataclasses.replace(config.llm, tie_embeddings=tied))


@functools.cache
def state(kind: str, tied: bool) -> dict[str, torch.Tensor]:
    """Name -> tensor of a whole model, float32."""
    if kind in ("tempo", "xcomp"):
        config = _untied(TEMPO if kind == "tempo" else XCOMP, tied)
        if kind == "tempo":
            arrays = tiny_checkpoints.tensors("tempo", config)
        else:
            shapes = tiny_checkpoints.shapes("xcomp", config)
            arrays = {name: xcomp_tensor(name, shape) for name, shape in shapes.items()}
        return {name: torch.from_numpy(np.array(x, np.float32)) for name, x in arrays.items()}
    found = {name: x.detach().clone() for name, x in qwen(kind, tied).state_dict().items()}
    if tied:
        found.pop("lm_head.weight")
    return found


def config_json(kind: str, tied: bool, version: str) -> dict:
    """A config.json as transformers `version` ("5" or "4.57") writes it."""
    if kind in ("qwen3", "qwen2", "qwen3-vl"):
        if version == "4.57":
            return copy.deepcopy(recorded()[f"{kind} tied={tied}"])
        return json.loads(qwen(kind, tied).config.to_json_string())
    values = hf_export.export(kind, _untied(TEMPO if kind == "tempo" else XCOMP, tied), {}, "float32")
    if version == "5":
        theta = values.pop("rope_theta")
        values.pop("rope_scaling")
        values["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}
        return values | {"transformers_version": "5.23.0"}
    return values | {"transformers_version": "4.57.1"}


def write(folder: Path, kind: str, tied=True, version="5", layout="one", dtype="f32", tokenizer=None) -> Path:
    """A checkpoint folder; layout: one, shards, stale (an index of older weights beside), bare."""
    folder.mkdir(parents=True)
    values = config_json(kind, tied, version)
    (folder / "config.json").write_text(json.dumps(values))
    arrays = {n: x.to(DTYPES[dtype]).contiguous() for n, x in state(kind, tied).items()}
    if layout == "bare":
        # What model.model.save_pretrained leaves: no head, and no "model." in front.
        arrays = {n.removeprefix("model."): x for n, x in arrays.items() if n != "lm_head.weight"}
    if layout in ("shards", "stale"):
        old = {n: x + 1 for n, x in arrays.items()} if layout == "stale" else arrays
        names = sorted(old)
        files = {n: f"model-{1 + i % 3:05d}-of-00003.safetensors" for i, n in enumerate(names)}
        for file in set(files.values()):
            part = {n: old[n] for n in names if files[n] == file}
            save_file(part, folder / file, metadata={"format": "pt"})
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    if layout != "shards":
        save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    if tokenizer is not None:
        for file in Path(tokenizer).iterdir():
            shutil.copyfile(file, folder / file.name)
    return folder


def write_base(folder: Path, tokenizer: Path, version: str = "5") -> Path:
    """Tempo's base model, with a tokenizer that has the pictures' ids in its small vocabulary."""
    config = TEMPO.compressor
    values = hf_export.export("qwen3-vl", config, {}, "float32")
    special = {
        "image_token_id": 12,
        "video_token_id": 13,
        "vision_start_token_id": 9,
        "vision_end_token_id": 10,
    }
    values |= special | {"transformers_version": "5.23.0" if version == "5" else "4.57.1"}
    arrays = tiny_checkpoints.tensors("qwen3-vl", config, "base.")
    return tiny_checkpoints.write(folder, arrays, values, tokenizer_dir=tokenizer)
