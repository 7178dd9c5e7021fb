"""Weights in 8 bits: what they change of a product, of an answer, of memory; where they lie."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tempo_jax
from tempo_jax import checkpoint, sharding
from tempo_jax.data.minireel import tokenizer as minireel_tokenizer
from tempo_jax.errors import TempoError
from tempo_jax.models import build, quantized
from tempo_jax.plan import abstract
from tempo_jax.utils.tree import flatten
from tests.small_demo import DEMO
from tests.systems import recorded_frames, relative

pytestmark = pytest.mark.usefixtures("quick_compilation")
ERROR = {"int8": 0.01, "fp8": 0.04}  # of a product of random matrices, as a share of its largest entry
QUESTION = "Where does the red star appear?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("model")
    minireel_tokenizer.write(place / "tokenizer")
    params = build.parameters(build.init(DEMO, 4))
    checkpoint.save(place / "model", "tempo", DEMO, params, place / "tokenizer", {})
    return place / "model"


@pytest.mark.parametrize("kind", quantized.STORAGE_DTYPES)
def test_a_product_is_close(kind):
    x, kernel = (
        jax.random.normal(jax.random.key(i), s, jnp.bfloat16) for i, s in enumerate([(3, 5, 96), (96, 64)])
    )
    made = jax.jit(quantized.quantize_matrix, static_argnames="kind")(kernel, kind=kind)
    assert made.qvalue.dtype.itemsize == 1 and made.scale.shape == (1, 64)
    ours = quantized.matmul(x, made)
    assert ours.dtype == jnp.bfloat16 and ours.shape == (3, 5, 64)
    assert 0 < relative(np.float32(ours), np.float32(x @ kernel)) < ERROR[kind]


@pytest.mark.parametrize("kind", quantized.STORAGE_DTYPES)
def test_a_model_answers_almost_as_before_with_half_the_bytes(folder, kind):
    frames = recorded_frames(1, 20, 64, 64)
    whole, small = (tempo_jax.load(folder, dtype=dtype) for dtype in ("bfloat16", kind))
    one, other = (system.inspect(frames, QUESTION, budget=60) for system in (whole, small))
    np.testing.assert_allclose(other.relevance, one.relevance, atol=0.02)
    assert relative(other.logits, one.logits) < 0.2
    stored = {
        path: x
        for path, x in flatten(build.parameters(small.model)).items()
        if quantized.is_quantized_path(path)
    }
    assert len(stored) == 7 * (DEMO.llm.num_layers + DEMO.compressor.text.num_layers)
    before = flatten(build.parameters(whole.model))
    bytes_of = lambda x: sum(leaf.nbytes for leaf in jax.tree.leaves(x))  # noqa: E731
    ratio = sum(map(bytes_of, stored.values())) / sum(bytes_of(before[path]) for path in stored)
    assert 0.5 < ratio < 0.52


def test_on_a_mesh_every_chip_has_its_part(folder):
    mesh = sharding.make_mesh(1, 2, 2)
    spread, alone = (tempo_jax.load(folder, dtype="int8", mesh=m) for m in (mesh, None))
    frames = recorded_frames(1, 20, 64, 64)
    logits = [system.inspect(frames, QUESTION, budget=60).logits for system in (spread, alone)]
    assert relative(*logits) < 0.05  # bfloat16
    kernel = spread.model.llm.layers[0].mlp.up.kernel[...]
    assert kernel.qvalue.sharding.shard_shape(kernel.shape) == (
        DEMO.llm.hidden_size // 2,
        DEMO.llm.intermediate_size // 2,
    )


def test_the_planner_has_the_same_arrays(folder):
    real = tempo_jax.load(folder, dtype="int8").model
    with jax.set_mesh(mesh := sharding.make_mesh()):
        planned = abstract.model(DEMO, "int8", mesh)
    kinds = [[(x.shape, x.dtype) for x in jax.tree.leaves(model)] for model in (real, planned)]
    assert kinds[0] == kinds[1]


def test_other_types_are_refused(folder):
    with pytest.raises(TempoError, match="dtype 'int4' is not supported: use bfloat16, float32, int8 or fp8"):
        tempo_jax.load(folder, dtype="int4")
