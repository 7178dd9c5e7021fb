"""minireel with the demo model: held-out videos of the world it was trained for.

    python -m tempo_jax.data.minireel build/minireel --split=test --count=8 --seconds=4096 --size=128
    python eval.py --config=configs/eval_minireel.py --workdir=build/eval/minireel

What the demo model gets: docs/training.md, section 5. As 128 segments ask for 512 tokens at the least, a
budget of 1024 is tight: 8 tokens a frame would be 8192.
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
    config.reuse = "prefix"
    return config
