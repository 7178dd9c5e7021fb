"""Tempo (arXiv 2604.08120) at inference: engine, clip, features, layout, steps (jitted) and options."""
