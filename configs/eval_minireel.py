"""minireel with the demo model: held-out videos of the world it was trained for.

    python -m tempo_jax.data.minireel build/minireel --split=test --count=8 --seconds=4096 --size=128
    python eval.py --config=configs/eval_minireel.py --workdir=build/eval/minireel

What the demo model gets: docs/results/demo-model.md. Its 128 segments of a long video have 16 tokens each,
2048 together, and keep at least 4, so that a budget of 1024 is what makes it choose.
"""

from ml_collections import ConfigDict

from tempo_jax.evaluation.config import default


def get_config() -> ConfigDict:
    config = default()
    config.benchmark = "minireel"
    config.checkpoint = "checkpoints/demo"
    config.data.path = "build/minireel"
    config.min_frames = 4
    config.budget = (1024,)
    config.video_cache = "prefix"
    return config
