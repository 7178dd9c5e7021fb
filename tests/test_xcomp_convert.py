"""XComp's published layout to native and back."""

import dataclasses
import json
import shutil

import ml_dtypes
import numpy as np
import pytest

from convert import from_hf, hf_export, mapping, safetensors_io, to_hf, verify
from tempo_jax import checkpoint
from tempo_jax.errors import TempoError
from tempo_jax.models import build
from tempo_jax.models.presets import XCOMP_TINY
from tempo_jax.utils.tree import flatten
from tests import tiny_checkpoints
from tests import xcomp_systems as tiny

SMALL = dataclasses.replace(XCOMP_TINY, llm=dataclasses.replace(XCOMP_TINY.llm, vocab_size=512))
SIZES = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 28, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 512, "mm_hidden_size": 128, "torch_dtype": "bfloat16",
}  # fmt: skip


def shapes() -> dict:
    found = mapping.tensors("xcomp", SMALL)
    return {name: entry.hf_shape for entry in found for name in entry.hf}


@pytest.fixture(scope="module")
def published(tmp_path_factory, demo_tokenizer_dir):
    """Folders "train" and "eval" with the released config.json, sizes apart."""
    arrays = {name: tiny.tensor(name, shape).astype(ml_dtypes.bfloat16) for name, shape in shapes().items()}
    root = tmp_path_factory.mktemp("xcomp")
    for name in ("train", "eval"):
        values = json.loads((tiny.FOLDER / f"config_{name}.json").read_text()) | SIZES
        tiny_checkpoints.write(root / name, arrays, values, tokenizer_dir=demo_tokenizer_dir)
        shutil.copy(tiny.FOLDER / "generation_config.json", root / name)
    return root


def read_all(folder):
    with safetensors_io.Reader(folder) as reader:
        return {name: reader.read(name) for name in reader.infos}


def test_the_table_has_the_published_tensors():
    names = shapes()
    assert len(names) == 372 and "lm_head.weight" not in names
    tower = "model.vision_tower.vision_tower.encoder."
    assert names[tower + "patch_embed.proj.weight"] == (128, 3, 1, 16, 16)
    assert names[tower + "blocks.1.attn.qkv.weight"] == (384, 128)
    assert tower + "blocks.0.attn.q_bias" in names and tower + "vision_layernorm.bias" in names
    assert names["model.mm_projector.mlp.2.weight"] == (64, 64)
    assert names["model.layers.27.self_attn.k_proj.bias"] == (32,)


@pytest.mark.parametrize("layout,clip_frames,context", [("train", 8, 32768), ("eval", 4, 131072)])
def test_round_trip(published, tmp_path, layout, clip_frames, context):
    """Byte for byte, config.json and tokenizer files too."""
    from_hf.convert("xcomp", published / layout, tmp_path / "native")
    model = checkpoint.read_model_json(tmp_path / "native", "xcomp")
    assert model.config == dataclasses.replace(SMALL, clip_frames=clip_frames, context_length=context)
    to_hf.convert(tmp_path / "native", tmp_path / "back")
    ours, theirs = read_all(tmp_path / "back"), read_all(published / layout)
    assert ours.keys() == theirs.keys()
    assert all(ours[n].dtype == x.dtype and ours[n].tobytes() == x.tobytes() for n, x in theirs.items())
    for file in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "back" / file).read_text()) == json.loads(
            (published / layout / file).read_text()
        )
    report = verify.verify(tmp_path / "native", published / layout)
    assert report.equal and report.cast == 0 and report.identical == 372


def test_values_land_where_they_belong(published, tmp_path):
    from_hf.convert("xcomp", published / "train", tmp_path / "native", dtype="float32")
    native, hf = flatten(checkpoint.load_params(tmp_path / "native")), read_all(published / "train")
    tower = "model.vision_tower.vision_tower.encoder."
    patch = hf[tower + "patch_embed.proj.weight"].astype(np.float32)
    np.testing.assert_array_equal(native["vision/patch_embed/kernel"], patch.reshape(128, 768).T)
    qkv = hf[tower + "blocks.1.attn.qkv.weight"].astype(np.float32)
    np.testing.assert_array_equal(native["vision/blocks/attention/qkv/kernel"][1], qkv.T)
    bias = hf[tower + "blocks.1.attn.v_bias"].astype(np.float32)
    np.testing.assert_array_equal(native["vision/blocks/attention/v_bias"][1], bias)
    build.build(SMALL, checkpoint.load_params(tmp_path / "native"))


def test_a_model_without_config_exports_one_that_converts(tmp_path):
    """As training does: no original config.json to bring up to date."""
    values = hf_export.export("xcomp", SMALL, {}, "float32")
    arrays = {name: tiny.tensor(name, shape) for name, shape in shapes().items()}
    tiny_checkpoints.write(tmp_path / "hf", arrays, values)
    from_hf.convert("xcomp", tmp_path / "hf", tmp_path / "native")
    assert checkpoint.read_model_json(tmp_path / "native").config == SMALL


@pytest.mark.parametrize("change,words", [
    ({"mm_projector_type": "mlp2x_gelu"}, "mm_projector_type='mlp2x_gelu', which is not supported"),
    ({"mm_vision_tower": "internvideo2"}, "mm_vision_tower='internvideo2'"),
    ({"model_type": "tempo_qwen"}, "use --model=tempo"),
])  # fmt: skip
def test_other_models_are_sentences(published, tmp_path, change, words):
    shutil.copytree(published / "train", tmp_path / "hf")
    values = json.loads((tmp_path / "hf" / "config.json").read_text()) | change
    (tmp_path / "hf" / "config.json").write_text(json.dumps(values))
    with pytest.raises(TempoError, match=words):
        from_hf.convert("xcomp", tmp_path / "hf", tmp_path / "native")


def test_missing_tensors_are_named(published, tmp_path):
    arrays = read_all(published / "train")
    del arrays["model.norm.weight"], arrays["model.mm_projector.mlp.0.bias"]
    values = json.loads((published / "train" / "config.json").read_text())
    tiny_checkpoints.write(tmp_path / "hf", arrays, values)
    with pytest.raises(TempoError, match=r"missing: model.mm_projector.mlp.0.bias, model.norm.weight"):
        from_hf.convert("xcomp", tmp_path / "hf", tmp_path / "native")
    without = {n: x for n, x in arrays.items() if "vision_tower" not in n}
    tiny_checkpoints.write(tmp_path / "blind", without, values)
    with pytest.raises(TempoError, match="holds no UMT vision tower"):
        from_hf.convert("xcomp", tmp_path / "blind", tmp_path / "native")
