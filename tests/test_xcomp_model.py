"""XComp's base model against recorded runs of the released code: vision tower, merging, preprocessing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempo_jax.models import rope, umt
from tempo_jax.models.resize import resize_direct
from tests import xcomp_systems as tiny
from tests.xcomp_systems import recorded

_merge = jax.jit(umt.merge, static_argnums=(1, 2))


def test_reductions_of_published_clips():
    """T7."""
    assert umt.merge_counts(6272, 128) == [3136, 1568, 784, 392, 196, 68]
    assert umt.merge_counts(3136, 64) == [1568, 784, 392, 196, 98, 34]
    assert umt.merge_counts(784, 16) == [392, 196, 98, 49, 24, 9]
    with pytest.raises(ValueError, match="cannot be merged"):
        umt.merge_counts(8, 9)


@pytest.mark.parametrize("target,sizes", [(3, [1, 1, 2]), (2, [2, 2]), (1, [4])])
def test_merging_by_hand(target, sizes):
    """T7: (1,0) joins (2,0); (1,1) is as near to (0,1) as to (2,0) and joins the first."""
    x = jnp.asarray([[1.0, 0], [0, 1], [1, 1], [2, 0]])
    merged, found = _merge(x, target, 2)
    np.testing.assert_allclose(merged, recorded("tome_toy")[f"t{target}"][0], atol=1e-6)
    np.testing.assert_array_equal(found, sizes)


@given(st.sampled_from([(12, 5), (11, 2)]), st.integers(0, 2**31))
def test_merged_tokens_are_means(shape, seed):
    """Sizes sum to the input's count and the sum of all tokens is kept."""
    count, target = shape
    x = np.random.RandomState(seed).standard_normal((count, 4)).astype(np.float32)
    merged, sizes = _merge(x, target, 2)
    assert merged.shape == (target, 4) and sizes.min() >= 1 and sizes.sum() == count
    np.testing.assert_allclose((merged * sizes[:, None]).sum(0), x.sum(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("frames", [1, 8])
def test_recorded_merging(frames):
    run = recorded(f"tome_random_T{frames}")
    x = np.random.RandomState(int(run["seed"])).standard_normal((784 * frames, 128)).astype(np.float32)
    assert np.isclose(x.astype(np.float64).sum(), run["feat_sum"])
    merged, sizes = _merge(x, 16 * frames)
    np.testing.assert_array_equal(sizes, run["sizes"])
    np.testing.assert_allclose(merged, run["merged"], atol=1e-5)
    tokens = tiny.model().projector(merged)[:: 4 if frames == 8 else 1]
    np.testing.assert_allclose(tokens, run["tokens"], atol=1e-5)


def test_position_tables():
    run = recorded("vision_LF8")
    table = umt.positions(8, 28, 128)
    np.testing.assert_allclose(table[::7], run["pos_embed"], atol=2e-6)
    np.testing.assert_allclose(table.astype(np.float64).sum(0), run["pos_embed_sum"], atol=2e-3)
    np.testing.assert_allclose(umt.positions(1, 28, 128), run["img_pos_embed"], atol=2e-6)


@pytest.mark.parametrize("frames", [1, 8])
def test_recorded_vision_tower(frames):
    run = recorded("vision_LF8")
    name = f"T{frames}"
    pixels = tiny.pixels_f32(int(run[f"{name}_seed"]), frames)[None]
    tower = tiny.model().vision
    embedded = tower.embed(pixels)[0] - umt.positions(frames, 28, 128)
    np.testing.assert_allclose(embedded[::56], run[f"{name}_patch_embed_every7"], atol=1e-4)
    features = jax.jit(lambda tower, x: tower(x))(tower, pixels)
    np.testing.assert_allclose(features[0, :: 49 if frames == 8 else 7], run[f"{name}_features"], atol=1e-4)
    np.testing.assert_allclose(features[0].sum(0), run[f"{name}_features_sum"], atol=0.05)
    merged, _ = _merge(features[0], 16 * frames)
    np.testing.assert_allclose(tiny.model().projector(merged), run[f"{name}_tokens"], atol=1e-4)


@pytest.mark.parametrize("name", ["a", "b"])
def test_recorded_preprocessing(name):
    run = recorded("preprocess")
    frames = tiny.frames_u8(int(run[f"seed_{name}"]), *run[f"shape_{name}"][:3])
    pixels = umt.normalize(resize_direct(jnp.asarray(frames), (448, 448))).transpose(0, 3, 1, 2)
    level = 1 / 255 / 0.224  # one level of a pixel is the rounding of another Pillow
    np.testing.assert_allclose(pixels[:, :, ::16, ::16], run[f"out_{name}"], atol=1.01 * level)
    np.testing.assert_allclose(pixels[0, :, 17], run[f"row_{name}"], atol=1.01 * level)
    same = np.abs(pixels[0, :, 17] - run[f"row_{name}"]) < 1e-4
    assert same.mean() > 0.99


def test_recorded_rotary_tables():
    run = recorded("rope")
    for size in (16, 128):
        frequencies = rope.inverse_frequencies(size, 1e6)
        np.testing.assert_allclose(frequencies, run[f"inv_freq_{size}"], rtol=2e-7)
        angles = rope.angles(jnp.asarray(run["positions"])[None], run[f"inv_freq_{size}"])[0]
        half = size // 2
        np.testing.assert_allclose(np.cos(angles), run[f"cos_{size}"][:, :half], atol=2e-6)
        np.testing.assert_allclose(np.sin(angles), run[f"sin_{size}"][:, :half], atol=2e-6)
