"""Conversion: exact round trips, whatever the tensors' dtypes, shards and names."""

import dataclasses
import json
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest

from convert import from_hf, hf_config, mapping, native_io, safetensors_io, to_hf, verify
from tempo_jax import checkpoint
from tempo_jax.errors import TempoError
from tempo_jax.models import build, presets
from tempo_jax.models import config as cfg
from tempo_jax.utils.tree import flatten
from tests import tiny_checkpoints as tiny

BF16 = ml_dtypes.bfloat16
CONFIG = tiny.tiny_config(16, tiny.SMALL)


def read_all(folder: Path) -> dict[str, np.ndarray]:
    with safetensors_io.Reader(folder) as reader:
        return {name: reader.read(name) for name in reader.infos}


def assert_same_bytes(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    what = {n: (x.dtype, x.shape, x.tobytes()) for n, x in one.items()}
    wrong = [n for n, x in other.items() if (x.dtype, x.shape, x.tobytes()) != what[n]]
    assert not wrong


def round_trip(model: str, folder: Path, out: Path, **options) -> None:
    """HF -> native -> HF, everything as it was; sharded on the way out."""
    base = options.pop("base", None)
    from_hf.convert(model, folder, out / "native", base=base)
    to_hf.convert(out / "native", out / "back", **options)
    assert_same_bytes(read_all(folder), read_all(out / "back"))
    assert json.loads((folder / "config.json").read_text()) == json.loads(
        (out / "back" / "config.json").read_text()
    )
    report = verify.verify(out / "native", folder, base)
    assert report.equal and report.cast == 0


@pytest.mark.parametrize("memory_tokens", [16, 128])
def test_the_table_is_complete(memory_tokens):
    """Names and shapes are the recorded ones of the released classes."""
    path = Path(__file__).parent / f"golden/tempo_tiny/shapes_k{memory_tokens}.json"
    recorded = {n: tuple(s) for n, s in json.loads(path.read_text()).items()}
    assert tiny.shapes("tempo", tiny.tiny_config(memory_tokens)) == recorded


@pytest.mark.parametrize("config", presets.PRESETS.values(), ids=presets.PRESETS)
def test_native_shapes_are_the_models(config):
    kind = next(k for k, t in cfg.KINDS.items() if isinstance(config, t))
    shapes = {path: x.shape for path, x in flatten(build.shapes(config)).items()}
    assert mapping.native_shapes(kind, config) == shapes


def test_round_trip_of_shards_and_tokenizer(published, tmp_path):
    round_trip("tempo", published / "tempo", tmp_path, base=published / "base", max_shard_bytes=2_000_000)
    index = json.loads((tmp_path / "back" / safetensors_io.INDEX).read_text())
    assert len(set(index["weight_map"].values())) > 2
    for file in (published / "tempo").glob("*token*"):
        assert (tmp_path / "back" / file.name).read_bytes() == file.read_bytes()
    checkpoint.tokenizer_path(tmp_path / "native")


def test_exported_files_open_elsewhere(published, tmp_path):
    """The safetensors library and torch's reader accept our files."""
    from safetensors.torch import load_file

    to_hf.convert(published / "native", tmp_path / "back")
    found = load_file(tmp_path / "back" / "model.safetensors")
    ours = read_all(published / "tempo")
    assert found.keys() == ours.keys()
    assert all(np.array_equal(found[n].numpy(), ours[n]) for n in found)


def test_values_land_where_they_belong(published):
    hf = read_all(published / "tempo")
    native = flatten(checkpoint.load_params(published / "native"))
    up = native["llm/layers/mlp/up/kernel"]
    np.testing.assert_array_equal(up[2], hf["model.layers.2.mlp.up_proj.weight"].T)
    svlm = "model.vision_tower_aux_list.0."
    patch = hf[f"{svlm}vlm.model.visual.patch_embed.proj.weight"]
    np.testing.assert_array_equal(native["compressor/vision/patch_embed/kernel"], patch.reshape(48, 1536).T)
    np.testing.assert_array_equal(native["compressor/memory/embedding"], hf[f"{svlm}compression_tokens"][0])
    rows = read_all(published / "base")["model.language_model.embed_tokens.weight"]
    np.testing.assert_array_equal(native[mapping.DIRECTION], rows[cfg.QWEN_IDS.yes] - rows[cfg.QWEN_IDS.no])
    build.build(CONFIG, checkpoint.load_params(published / "native"))


@pytest.mark.parametrize(
    "dtypes", [(BF16,), (np.float16,), (np.float32, BF16, np.float16), (np.float64, BF16)]
)
def test_every_dtype_comes_back(tmp_path, dtypes):
    """Also stacks of mixed dtypes, and the float64 that a careless writer leaves."""
    arrays = tiny.tensors("qwen3", CONFIG.llm)
    arrays = {n: x.astype(dtypes[i % len(dtypes)]) for i, (n, x) in enumerate(arrays.items())}
    round_trip("qwen3", tiny.write(tmp_path / "hf", arrays, tiny.hf_json("qwen3", CONFIG.llm)), tmp_path)


def test_odd_values_survive(tmp_path):
    """NaN payloads, infinities, negative zeros, subnormals: bits, not values, are kept."""
    arrays = {n: x.astype(BF16) for n, x in tiny.tensors("qwen3", CONFIG.llm).items()}
    odd = np.array([0x7FC1, 0xFF80, 0x8000, 0x0001, 0x7F80], np.uint16).view(BF16)
    arrays["model.norm.weight"][:5] = odd
    arrays["model.layers.1.mlp.up_proj.weight"][3, :5] = odd
    round_trip("qwen3", tiny.write(tmp_path / "hf", arrays, tiny.hf_json("qwen3", CONFIG.llm)), tmp_path)


def test_direction_is_formed_in_the_bases_dtype(published, tmp_path):
    arrays = {n: x.astype(BF16) for n, x in tiny.tensors("qwen3-vl", CONFIG.compressor, "base.").items()}
    base = tiny.write(tmp_path / "base", arrays, tiny.hf_json("qwen3-vl", CONFIG.compressor))
    from_hf.convert("tempo", published / "tempo", tmp_path / "native", base=base)
    rows = arrays["model.language_model.embed_tokens.weight"]
    (stored,) = native_io.stored_arrays(tmp_path / "native", [mapping.DIRECTION])
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored, (rows[cfg.QWEN_IDS.yes] - rows[cfg.QWEN_IDS.no]).astype(np.float32))


def test_cast_while_converting(published, tmp_path):
    args = ("tempo", published / "tempo", tmp_path / "native")
    from_hf.convert(*args, base=published / "base", dtype="bfloat16")
    native = checkpoint.param_shapes(tmp_path / "native")
    assert {str(x.dtype) for p, x in native.items() if p != mapping.DIRECTION} == {"bfloat16"}
    assert native[mapping.DIRECTION].dtype == np.float32
    report = verify.verify(tmp_path / "native", published / "tempo")
    assert report.equal and report.cast > 100
    to_hf.convert(tmp_path / "native", tmp_path / "back")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["dtype"] == "bfloat16"


def test_qwen3_vl_under_both_namings(published, tmp_path):
    round_trip("qwen3-vl", published / "base", tmp_path / "published")
    arrays = {n.removeprefix("model."): x for n, x in read_all(published / "base").items()}
    bare = tiny.write(tmp_path / "bare", arrays, tiny.hf_json("qwen3-vl", CONFIG.compressor))
    round_trip("qwen3-vl", bare, tmp_path / "b")
    one, other = (checkpoint.load_params(tmp_path / p / "native") for p in ("published", "b"))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_mlp_projector(published, tmp_path):
    config = dataclasses.replace(CONFIG, projector="mlp2x_gelu")
    arrays = tiny.tensors("tempo", config)
    assert arrays["model.mm_projector.2.weight"].shape == (80, 80)
    source = tiny.write(tmp_path / "hf", arrays, tiny.hf_json("tempo", config))
    round_trip("tempo", source, tmp_path, base=published / "base")
    assert checkpoint.read_model_json(tmp_path / "native").config == config
    wrong = tiny.write(tmp_path / "wrong", arrays, tiny.hf_json("tempo", CONFIG))
    with pytest.raises(TempoError, match=r"'linear' but the checkpoint holds a 'mlp2x_gelu'"):
        from_hf.convert("tempo", wrong, tmp_path / "x", base=published / "base")


def test_tied_head_stored_all_the_same(published, tmp_path):
    arrays = tiny.tensors("qwen3", CONFIG.llm)
    arrays["lm_head.weight"] = arrays["model.embed_tokens.weight"].copy()
    source = tiny.write(tmp_path / "hf", arrays, tiny.hf_json("qwen3", CONFIG.llm))
    round_trip("qwen3", source, tmp_path)
    arrays["lm_head.weight"][5, 5] += 1
    tiny.write(source, arrays, tiny.hf_json("qwen3", CONFIG.llm))
    with pytest.raises(TempoError, match=r"lm_head\.weight differs from model\.embed_tokens\.weight"):
        from_hf.convert("qwen3", source, tmp_path / "x")


def test_untied_head_is_a_parameter(tmp_path):
    config = dataclasses.replace(CONFIG.llm, tie_embeddings=False)
    source = tiny.write(tmp_path / "hf", tiny.tensors("qwen3", config), tiny.hf_json("qwen3", config))
    round_trip("qwen3", source, tmp_path)
    assert checkpoint.param_shapes(tmp_path / "native")["head/kernel"].shape == (80, tiny.SMALL)


def test_stage_zero(published, tmp_path):
    """tempo-init: both backbones as they are, new memory tokens and projector, exported as Tempo."""
    args = ("tempo-init", published / "llm", tmp_path / "native")
    from_hf.convert(*args, base=published / "base", memory_tokens=512, seed=3)
    model = checkpoint.read_model_json(tmp_path / "native", "tempo")
    native = flatten(checkpoint.load_params(tmp_path / "native"))
    assert model.config == dataclasses.replace(CONFIG, memory_tokens=512)
    llm, base = read_all(published / "llm"), read_all(published / "base")
    o = llm["model.layers.1.self_attn.o_proj.weight"]
    np.testing.assert_array_equal(native["llm/layers/attention/o/kernel"][1], o.T)
    embed = base["model.language_model.embed_tokens.weight"]
    np.testing.assert_array_equal(native["compressor/text/embed/embedding"], embed)
    memory = np.asarray(native["compressor/memory/embedding"])
    assert np.abs(memory.std(0) / embed.std(0) - 1).max() < 0.15
    assert np.abs(memory.mean(0) - embed.mean(0)).max() < 0.12
    assert np.abs(native["projector/layers/0/kernel"]).max() <= 1 / 8
    from_hf.convert(*args, base=published / "base", memory_tokens=512, seed=3, overwrite=True)
    (again,) = native_io.stored_arrays(tmp_path / "native", ["compressor/memory/embedding"])
    np.testing.assert_array_equal(memory, again)
    to_hf.convert(tmp_path / "native", tmp_path / "back")
    from_hf.convert("tempo", tmp_path / "back", tmp_path / "again", base=published / "base")
    assert checkpoint.read_model_json(tmp_path / "again").config == model.config


def test_verify_names_every_difference(published, tmp_path):
    arrays = read_all(published / "tempo")
    arrays["model.norm.weight"][3] += 0.5
    arrays["model.mm_projector.bias"][0] += 0.25
    other = tiny.write(tmp_path / "hf", arrays, tiny.hf_json("tempo", CONFIG))
    report = verify.verify(published / "native", other, published / "base")
    assert len(report.differing) == 2
    assert any("model.norm.weight: largest difference 0.5 (1 of 80" in line for line in report.differing)


def test_both_generations_of_config_json():
    """transformers 4.57: rope_theta beside rope_scaling; 5.x: both in rope_parameters."""
    old = tiny.hf_json("qwen3-vl", CONFIG.compressor)
    new = json.loads(json.dumps(old))
    rope = new["text_config"].pop("rope_scaling")
    new["text_config"]["rope_parameters"] = rope | {"rope_theta": new["text_config"].pop("rope_theta")}
    assert hf_config.qwen3_vl(old, []) == hf_config.qwen3_vl(new, []) == CONFIG.compressor
    assert hf_config.qwen3(tiny.hf_json("qwen3", CONFIG.llm), []) == CONFIG.llm
    assert hf_config.eos_ids({"eos_token_id": [151643]}, {"eos_token_id": 7}) == (
        cfg.QWEN_IDS.im_end,
        151643,
        7,
    )
