"""Videos on the host: sampling, sizes, decoding. numpy, PyAV and Pillow; no jax.

PyAV and Pillow are imported when a video is opened, so importing this package is cheap.
"""

from tempo_jax.video.sampling import (
    Segment,
    real_fps,
    sample_indices,
    segment_count,
    segments,
    slice_count,
    slice_frames,
    slice_seconds,
    tag_seconds,
)
from tempo_jax.video.sizes import image_size, model_size, resize_steps
from tempo_jax.video.sources import Reading, Source, open_video

__all__ = [
    "Reading",
    "Segment",
    "Source",
    "image_size",
    "model_size",
    "open_video",
    "real_fps",
    "resize_steps",
    "sample_indices",
    "segment_count",
    "segments",
    "slice_count",
    "slice_frames",
    "slice_seconds",
    "tag_seconds",
]
