"""Ablations on minireel: what the LLM gets to see, in accuracy over tokens per frame.

One command asks every question under every combination below and draws accuracy.png; another question
costs a video's first decoding and vision nothing, another setting of a question not even its compression.

    python eval.py --config=configs/eval_minireel_ablation.py --workdir=build/eval/ablation
    python eval.py ... --config.strategy=head --config.max_frames=256,512,1024 --config.budget=640,1024,1536
    python eval.py ... --config.strategy=head --config.min_tokens=1,4,8 --config.max_tokens=8,16

The same grids work on every benchmark: --config=configs/eval_lvbench.py --config.strategy=head,tail,...
"""

from ml_collections import ConfigDict

from configs import eval_minireel
from tempo_jax.tempo.options import STRATEGIES


def get_config() -> ConfigDict:
    config = eval_minireel.get_config()
    config.strategy = (*STRATEGIES, "none")
    config.budget = (640, 1024, 1536)
    return config
