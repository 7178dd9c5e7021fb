"""Loss and gradients: the recorded training step, and what must not change them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert import mapping
from tempo_jax.data.batch_packing import BatchShape
from tempo_jax.data.samples import Sample, SampleTooLong
from tempo_jax.errors import TempoError
from tempo_jax.models import build
from tempo_jax.models.layers import parse_remat_policies
from tempo_jax.models.presets import TINY
from tempo_jax.models.resize import resize_video
from tempo_jax.tasks.losses import cross_entropy
from tempo_jax.tasks.tempo import collate, loss
from tempo_jax.utils.tree import flatten, nest
from tempo_jax.video import resize_steps
from tests.systems import GOLDEN, RecordedTokenizer, recorded_frames, relative, weights

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def recorded():
    with np.load(GOLDEN / "tempo_tiny" / "train_one.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def sample(recorded):
    (given,) = json.loads(str(recorded["samples"]))
    frames = recorded_frames(given["seed"], given["T"], given["H"], given["W"])
    steps = tuple(resize_steps(given["H"], given["W"]))
    frames = np.asarray(jax.jit(lambda x: resize_video(x, steps))(frames)).astype(np.uint8)
    first, *rest = given["conversation"]
    return Sample(frames, 2.0, [{**first, "value": "<image>\n" + first["value"]}, *rest])


@pytest.fixture(scope="module")
def batch(sample):
    shape = BatchShape(segments=4, compressor_length=768, sequences=2, sequence_length=128)
    return jax.tree.map(jnp.asarray, collate([sample], RecordedTokenizer(), TINY, shape))


@pytest.fixture(scope="module")
def model():
    return build.build(TINY, nest({path: jnp.asarray(x) for path, x in weights(16).items()}))


def mean_loss(model, batch, remat=True):
    summed = loss(model, batch, remat=remat)
    return summed.total / summed.tokens


@pytest.fixture(scope="module")
def gradients(model, batch):
    value, grads = jax.jit(jax.value_and_grad(mean_loss, allow_int=True))(model, batch)
    return value, flatten(build.parameters(grads))


def test_recorded_loss_and_gradients(recorded, gradients):
    """Loss to 1e-5, every tensor's gradient norm to 1e-3, two gradients elementwise to 1e-3."""
    value, grads = gradients
    assert abs(float(value) / float(recorded["loss"]) - 1) < 1e-5
    ours = {}
    for entry in mapping.tensors("tempo", TINY):
        stacked = np.asarray(grads[entry.native], np.float64)
        parts = stacked if entry.stacked else [stacked]
        for name, part in zip(entry.hf, parts, strict=True):
            ours[name] = part
    expected = dict(zip(recorded["grad_names"].tolist(), recorded["grad_norms"].tolist(), strict=True))
    assert set(expected) == set(ours)
    far = {
        n: (np.linalg.norm(ours[n]), e)
        for n, e in expected.items()
        if abs(np.linalg.norm(ours[n]) - e) > 1e-3 * e
    }
    assert not far, far
    memory = grads["compressor/memory/embedding"]
    assert relative(memory, recorded["grad_compression_tokens"][0]) < 1e-3
    assert relative(grads["projector/layers/0/kernel"].T, recorded["grad_projector"]) < 1e-3


@pytest.mark.parametrize("remat", [False, "full,none,dots"])
def test_rematerialisation_changes_nothing(model, batch, gradients, remat):
    value, grads = jax.jit(jax.value_and_grad(lambda m, b: mean_loss(m, b, remat=remat), allow_int=True))(
        model, batch
    )
    assert abs(float(value) / float(gradients[0]) - 1) < 1e-6
    for path, grad in flatten(build.parameters(grads)).items():
        if np.abs(gradients[1][path]).max() > 0:
            assert relative(grad, gradients[1][path]) < 1e-4, path


def test_every_stack_of_layers_may_have_a_rematerialisation_of_its_own():
    assert parse_remat_policies("dots", 3) == ["dots"] * 3
    assert parse_remat_policies("full,attention,dots", 3) == ["full", "attention", "dots"]
    assert parse_remat_policies(True, 2) == [True, True]
    for wrong, count in (("full,dots", 3), ("most", 1), ("full,most,dots", 3), ("full,dots", 1)):
        choices = r"config\.remat is .*use one of full, attention, dots, offload, none"
        with pytest.raises(TempoError, match=choices):
            parse_remat_policies(wrong, count)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunked_cross_entropy_equals_the_plain_one(chunk):
    rng = np.random.RandomState(0)
    hidden, kernel = (jnp.asarray(rng.randn(*s), jnp.float32) for s in ((2, 21, 8), (8, 50)))
    labels = jnp.asarray(np.where(rng.rand(2, 21) < 0.3, -100, rng.randint(0, 50, (2, 21))))
    ours = cross_entropy(lambda x: x @ kernel, hidden, labels, chunk)
    log = jax.nn.log_softmax(hidden @ kernel)
    plain = -jnp.take_along_axis(log, jnp.maximum(labels, 0)[..., None], -1)[..., 0] * (labels >= 0)
    assert relative(ours.total, np.asarray(plain.sum())) < 1e-6
    assert float(ours.tokens) == float((labels >= 0).sum())


def test_what_does_not_fit_is_said(sample):
    for change, word in (
        ({"segments": 2}, "segments"),
        ({"compressor_length": 640}, "compressor"),
        ({"sequence_length": 64}, "tokens"),
    ):
        shape = BatchShape(
            **{**{"segments": 4, "compressor_length": 768, "sequences": 1, "sequence_length": 128}, **change}
        )
        with pytest.raises(SampleTooLong, match=word):
            collate([sample], RecordedTokenizer(), TINY, shape)
