"""The device's resize and patches against live Pillow and torch, and against recorded patches."""

import functools
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from tempo_jax.models import resize, vision
from tempo_jax.models.presets import TINY
from tempo_jax.video import image_size, resize_steps

GOLDEN = Path(__file__).parent / "golden" / "tempo_tiny"
# A tower that shows what it sees: its patches, in merge order, are embedded by nothing.
SEEING = types.SimpleNamespace(
    config=TINY.compressor.vision,
    patch_embed=types.SimpleNamespace(kernel=jnp.eye(1536), bias=jnp.zeros(1536)),
)
patchify = jax.jit(functools.partial(vision.VisionTower.embed, SEEING))
resize_image = jax.jit(resize.resize_image, static_argnums=1)


def resize_video(frames, steps):
    """Jitted, since the sizes are static."""
    return jax.jit(resize.resize_video, static_argnums=1)(frames, tuple(steps))


SIZES = [(720, 1280), (240, 320), (90, 160), (1000, 400), (97, 513), (2, 300)]


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Half noise, half smooth: uint8 [H, W, 3]; noise makes both roundings and clipping frequent."""
    pixels = np.random.RandomState(seed).randint(0, 256, (height, width, 3))
    pixels[:, width // 2 :] = np.linspace(0, 255, height).astype(int)[:, None, None]
    return pixels.astype(np.uint8)


def pillow(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Horizontal pass, then vertical: two calls, since Pillow 13 alone may turn them round."""
    wide = Image.fromarray(frame).resize((size[1], frame.shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(wide.resize((size[1], size[0]), Image.Resampling.BICUBIC))


def torchvision(frame: np.ndarray, size: tuple[int, int], native: bool) -> np.ndarray:
    """What torchvision's bicubic calls: v2 torch's uint8 kernel (`native`), v1 its float one."""
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(frame.copy()).permute(2, 0, 1)[None]
    x = x if native else x.float()
    x = torch.nn.functional.interpolate(x, size=size, mode="bicubic", antialias=True)
    x = x if native else x.clamp(0, 255).round()
    return x[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("size", SIZES)
def test_video_resize_matches_pillow_and_torch(size):
    frame = picture(*size)
    step_a, step_b, step_c = resize_steps(*size)
    expected = torchvision(pillow(pillow(frame, step_a), step_b), step_c, native=False)
    actual = np.asarray(resize_video(frame[None], (step_a, step_b, step_c)))[0]
    assert actual.dtype == np.float32 and actual.shape == (*step_c, 3)
    assert np.abs(actual - expected).max() <= 1
    # Only sums of the float step that end within 1e-5 of a half may fall the other way.
    assert (actual != expected).mean() < 1e-3


@pytest.mark.parametrize(
    "sizes", [((720, 1280), (288, 512)), ((1280, 720), (512, 288)), ((33, 47), (64, 128))]
)
def test_pillow_steps_are_bit_exact(sizes):
    source, target = sizes
    frame = picture(*source)
    actual = np.asarray(resize_video(frame, (target, target, target)))
    np.testing.assert_array_equal(actual, pillow(frame, target))


@pytest.mark.parametrize("size", SIZES)
def test_image_resize_is_bit_exact(size):
    frame = picture(*size, seed=1)
    target = image_size(*size)
    np.testing.assert_array_equal(
        np.asarray(resize_image(frame, target)), torchvision(frame, target, native=True)
    )


def recorded_frames(seed: int, count: int, height: int, width: int) -> np.ndarray:
    """The frames of a golden case (its README's rule): uint8 [T, H, W, 3]."""
    base = np.random.RandomState(seed).randint(0, 255, (8, 8, 3)).astype(np.float32)
    rows = np.floor(np.linspace(0, 7, height)).astype(int)
    columns = np.floor(np.linspace(0, 7, width)).astype(int)
    frames = [np.roll(base, k // 2, axis=0) * (0.6 + 0.4 * np.sin(k / 3.0)) for k in range(count)]
    return np.stack([np.clip(f[rows][:, columns], 0, 255).astype(np.uint8) for f in frames])


@pytest.mark.parametrize("name", ["a_basic", "c_tail", "f_image", "g_k128"])
def test_patches_match_the_recorded_runs(name):
    case = np.load(GOLDEN / f"{name}.npz")
    seed, count, height, width = map(int, case["frames_args"])
    frames = recorded_frames(seed, count, height, width)[:2]
    if name == "f_image":
        image = resize_image(frames[0], image_size(height, width))
        slices = jnp.stack([image, image])[None]
    else:
        slices = resize_video(frames, resize_steps(height, width))[None]
    _, rows, columns = case["grid"][0]
    patches = patchify(slices)
    assert patches.shape == (1, rows * columns, 1536)
    np.testing.assert_allclose(patches[0, :4], case["pix_head"], atol=1e-6)


def test_patches_of_frames_are_embedded_as_patches_are():
    tower = vision.VisionTower(TINY.compressor.vision, rngs=nnx.Rngs(0))
    tower.patch_embed.bias[...] = jax.random.normal(jax.random.key(1), tower.patch_embed.bias.shape)
    frames = np.random.default_rng(0).integers(0, 256, (3, 2, 64, 96, 3), np.uint8)
    wanted = tower.patch_embed(patchify(frames))
    np.testing.assert_allclose(jax.jit(tower.embed)(frames), wanted, atol=1e-5)


def test_patch_layout():
    """Row order (H/32, W/32, 2, 2), row layout (3, 2, 16, 16)."""
    x = np.arange(2 * 64 * 96 * 3, dtype=np.float32).reshape(1, 2, 64, 96, 3) % 256
    patches = (np.asarray(patchify(jnp.asarray(x))) + 1) * 127.5
    # Second merged cell of the second row (y 32, x 32), its lower left patch (y 48, x 32).
    row = ((1 * 3 + 1) * 2 + 1) * 2
    expected = x[0, :, 48:64, 32:48].transpose(3, 0, 1, 2)
    np.testing.assert_allclose(patches[0, row].reshape(3, 2, 16, 16), expected, atol=1e-3)
