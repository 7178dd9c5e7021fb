"""LVBench with Tempo-6B: 1549 questions about 103 videos of 4101 s on average.

Settings of the published evaluation (facts: frames at 2 fps, 8 to 1024 of them; the whole prompt is the
compressor's query too; greedy, 16 new tokens; context 32,768). Published with them: 52.7 % at a budget of
4096 (2.9 tokens per frame), 52.3 % at 8192 (3.5); 53.7 % with 2048 frames and 12288. Not run here yet.

    python eval.py --config=configs/eval_lvbench.py --workdir=build/lvbench --config.data.path=LVBench
    python eval.py ... --config.budget=4096,8192
    python eval.py ... --config.max_frames=2048 --config.budget=12288
"""

from ml_collections import ConfigDict

from tempo_jax.evaluation.config import default


def get_config() -> ConfigDict:
    config = default()
    config.benchmark = "lvbench"
    config.checkpoint = "checkpoints/tempo-6b"
    config.dtype = "bfloat16"
    return config
