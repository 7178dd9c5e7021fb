"""Where parameters come from: published backbones, what Tempo adds to them, whole checkpoints."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tempo_jax import checkpoint, sharding
from tempo_jax.errors import TempoError
from tempo_jax.models import build
from tempo_jax.models import presets as models
from tempo_jax.prompts import Tokenizer
from tempo_jax.training import start
from tempo_jax.training.config import default
from tempo_jax.utils.tree import flatten
from tests import tiny_training


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Folder of native backbones in bfloat16, and the architecture of Tempo that they fit."""
    folder = tmp_path_factory.mktemp("backbones")
    tokenizer = folder / "tokenizer"
    model = tiny_training.architecture(tiny_training.write_tokenizer(tokenizer))
    for name, kind, part in (("svlm", "qwen3-vl", model.compressor), ("llm", "qwen3", model.llm)):
        params = build.parameters(build.init(part, seed=5))
        params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
        checkpoint.save(folder / name, kind, part, params, tokenizer)
    return folder, model


@pytest.fixture
def preset(small, monkeypatch):
    monkeypatch.setitem(models.PRESETS, "small", small[1])


def config(**changes):
    values = default()
    values.model = "small"
    values.update_from_flattened_dict(changes)
    return values


def parameters(values, workdir, mesh=None):
    model = start.architecture(values)
    tokenizer = Tokenizer(start.tokenizer_folder(values, workdir))
    return start.parameters(values, model.config, tokenizer, mesh or sharding.make_mesh()), tokenizer, model


def test_backbones_fill_their_parts_and_the_rest_follows_from_them(small, preset, tmp_path):
    folder, _ = small
    changes = {"init.compressor": str(folder / "svlm"), "init.llm": str(folder / "llm")}
    values = config(**changes)
    mesh = sharding.make_mesh(fsdp=2, tensor=2)
    params, tokenizer, model = parameters(values, tmp_path, mesh)
    assert params.keys() == flatten(build.shapes(model.config)).keys()
    theirs = {
        f"{part}/{path}": x
        for part, name in (("compressor", "svlm"), ("llm", "llm"))
        for path, x in flatten(checkpoint.load_params(folder / name)).items()
    }
    for path, x in theirs.items():
        assert params[path].dtype == jnp.bfloat16  # frozen parts take no more room than they came with
        np.testing.assert_array_equal(params[path], x, err_msg=path)
    for path, x in params.items():
        assert x.sharding.is_equivalent_to(sharding.param_sharding(path, x.shape, mesh), x.ndim), path
    # docs/reference/tempo.md#relevance: rows of Yes and No, their difference formed in their own dtype.
    table = theirs["compressor/text/embed/embedding"]
    difference = (table[tokenizer.ids.yes] - table[tokenizer.ids.no]).astype(np.float32)
    np.testing.assert_array_equal(params["compressor/relevance/direction"], difference)
    # docs/reference/tempo.md#memory-tokens: Normal(mean_d, std_d) of the columns.
    table, memory = np.asarray(table, np.float32), np.asarray(params["compressor/memory/embedding"])
    drawn = (memory - table.mean(0)) / table.std(0, ddof=1)
    assert abs(drawn.mean()) < 0.3 and 0.7 < drawn.std() < 1.3 and np.unique(memory).size == memory.size
    # One device draws the same numbers.
    alone, _, _ = parameters(values, tmp_path)
    for path in ("compressor/memory/embedding", "projector/layers/0/kernel"):
        np.testing.assert_allclose(alone[path], params[path], rtol=1e-5, atol=1e-7)
    other, _, _ = parameters(config(seed=1, **changes), tmp_path)
    for path in ("compressor/memory/embedding", "projector/layers/0/kernel"):
        assert not np.array_equal(alone[path], other[path])
    assert {"compressor", "llm"} == set(model.origin["trained from"])


def test_a_single_backbone_takes_its_part_of_a_preset(small, preset):
    values = config(task="svlm")
    assert start.architecture(values).config == small[1].compressor
    assert start.architecture(config(task="llm")).config == small[1].llm


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"init.checkpoint": "svlm"}, "holds a model of kind 'qwen3-vl' where 'tempo' is needed"),
        ({"init.checkpoint": "svlm", "init.compressor": "svlm"}, "has a compressor: leave"),
        ({"init.llm": "llm", "model": "demo"}, r"init.llm does not fit config.model \(.*hidden_size is 32"),
        ({"init.compressor": "nothing"}, "is not a folder"),
        ({"init.llm": "llm"}, "there is no tokenizer: set config.init.tokenizer"),
        ({"init.llm": "llm", "model": "qwen3-4b"}, "is no tempo model, which config.task=tempo trains"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_sentence(small, preset, tmp_path, changes, sentence):
    paths = {name: str(small[0] / value) for name, value in changes.items() if name.startswith("init.")}
    with pytest.raises(TempoError, match=sentence):
        parameters(config(**(changes | paths)), tmp_path)


def test_another_llm_may_replace_that_of_a_whole_model(small, preset, tmp_path):
    folder, model = small
    whole = tmp_path / "whole"
    params = build.parameters(build.init(model, 3))
    checkpoint.save(whole, "tempo", model, params, folder / "tokenizer")
    values = {"init.checkpoint": str(whole), "init.llm": str(folder / "llm")}
    found, *_ = parameters(config(**values), tmp_path)
    theirs = flatten(checkpoint.load_params(folder / "llm"), "llm/")
    for path, x in flatten(params).items():
        np.testing.assert_array_equal(found[path], theirs.get(path, x))


def test_weights_of_another_size_are_named(small, preset, tmp_path, monkeypatch):
    folder, model = small
    whole = tmp_path / "whole"
    params = build.parameters(build.init(model))
    checkpoint.save(whole, "tempo", model, params, folder / "tokenizer")
    monkeypatch.setitem(models.PRESETS, "more", dataclasses.replace(model, memory_tokens=8))
    with pytest.raises(TempoError, match=r"do not fit config.model \(compressor/memory/embedding\)"):
        parameters(config(model="more", **{"init.checkpoint": str(whole)}), tmp_path)
    longer = dataclasses.replace(model, context_length=99)  # no parameter depends on it
    monkeypatch.setitem(models.PRESETS, "longer", longer)
    found, _, architecture = parameters(config(model="longer", **{"init.checkpoint": str(whole)}), tmp_path)
    assert architecture.config.context_length == 99
    for path, x in flatten(params).items():
        np.testing.assert_array_equal(found[path], x)
    assert Path(checkpoint.tokenizer_path(whole)).is_dir()
