"""Tempo as a system that answers: engine, clip, layout, steps (jitted) and options."""
