"""The demo model's architecture with fewer layers: the real vocabulary, for tests that run it."""

import dataclasses

from tempo_jax.models.presets import DEMO as WHOLE

_SVLM = WHOLE.compressor
DEMO = dataclasses.replace(
    WHOLE,
    compressor=dataclasses.replace(
        _SVLM,
        vision=dataclasses.replace(_SVLM.vision, depth=2),
        text=dataclasses.replace(_SVLM.text, num_layers=1),
    ),
    llm=dataclasses.replace(WHOLE.llm, num_layers=1),
)
