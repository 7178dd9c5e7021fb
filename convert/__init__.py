"""Hugging Face safetensors <-> native checkpoints: `from_hf`, `to_hf`, `verify`, `load_hf`."""
