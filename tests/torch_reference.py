"""Small random Hugging Face models and the same weights in our models, in memory."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from convert import mapping
from tempo_jax.models import build, stacks
from tempo_jax.models.config import DecoderConfig, Qwen3VLConfig, VisionConfig
from tempo_jax.utils.tree import nest

TOLERANCE_LAYER = 1e-5
TOLERANCE_MODEL = 1e-4


def difference(ours, theirs) -> float:
    """Largest absolute difference over the largest value."""
    theirs = theirs.detach().float().numpy() if hasattr(theirs, "detach") else np.asarray(theirs)
    ours = np.asarray(ours, np.float32)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def native(kind: str, config, torch_model, *, stacked: bool = True):
    """Our model with the weights of a PyTorch one, by the converter's own table."""
    state = {name: t.detach().numpy() for name, t in torch_model.state_dict().items()}
    flat = {}
    for tensor in mapping.tensors(kind, config):
        parts = [mapping.to_native(tensor.transform, state[name]) for name in tensor.hf]
        flat[tensor.native] = jnp.asarray(np.stack(parts) if tensor.stacked else parts[0])
    params = nest(flat)
    return build.build(config, params if stacked else stacks.unstack_layers(params))


def randomise(model, seed: int) -> None:
    """Weights of a useful size: fresh initialisation leaves norms at one and biases at zero."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.1 * noise)
            elif parameter.ndim == 1 or "embed" in name:
                parameter.copy_(0.3 * noise)
            else:
                parameter.copy_(noise / np.sqrt(np.prod(parameter.shape[1:])))


def qwen3(config: DecoderConfig, seed: int):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    model = Qwen3ForCausalLM(
        Qwen3Config(
            **_decoder_fields(config),
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            attn_implementation="eager",
        )
    ).eval()
    randomise(model, seed)
    return model


def qwen2(config: DecoderConfig, seed: int):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    fields = _decoder_fields(config)
    fields.pop("attention_bias")
    model = Qwen2ForCausalLM(
        Qwen2Config(
            **fields,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            attn_implementation="eager",
        )
    ).eval()
    randomise(model, seed)
    return model


def qwen3_vl(config: Qwen3VLConfig, seed: int):
    from transformers import Qwen3VLConfig as HFConfig
    from transformers import Qwen3VLForConditionalGeneration

    text, vision = config.text, config.vision
    fields = dataclasses.asdict(vision)
    fields["deepstack_visual_indexes"] = list(fields.pop("deepstack_layers"))
    model = Qwen3VLForConditionalGeneration(
        HFConfig(
            text_config={
                **_decoder_fields(text),
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": text.rope_theta,
                    "mrope_section": list(text.mrope_sections),
                    "mrope_interleaved": True,
                },
            },
            vision_config=fields,
            tie_word_embeddings=text.tie_embeddings,
            attn_implementation="eager",
        )
    ).eval()
    randomise(model, seed)
    return model


def _decoder_fields(config: DecoderConfig) -> dict:
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.rms_norm_eps,
        "attention_bias": config.qkv_bias,
        "tie_word_embeddings": config.tie_embeddings,
        "max_position_embeddings": 40_960,
    }


def random_decoder(rng: np.random.RandomState, **changes) -> DecoderConfig:
    kv_heads, head_dim = int(rng.choice([1, 2])), int(rng.choice([16, 32]))
    return dataclasses.replace(
        DecoderConfig(
            vocab_size=320,
            hidden_size=int(rng.choice([48, 64, 80])),
            intermediate_size=int(rng.choice([96, 160])),
            num_layers=int(rng.randint(2, 5)),
            num_heads=kv_heads * int(rng.choice([1, 2, 3])),
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            rope_theta=float(rng.choice([1e4, 1e6])),
            tie_embeddings=bool(rng.randint(2)),
        ),
        **changes,
    )


def random_qwen3_vl(rng: np.random.RandomState) -> Qwen3VLConfig:
    text = random_decoder(rng, vocab_size=151_936, rope_theta=5e6, head_dim=16, tie_embeddings=True)
    text = dataclasses.replace(text, num_layers=4, mrope_sections=(4, 2, 2))
    depth = int(rng.randint(4, 6))
    return Qwen3VLConfig(
        vision=VisionConfig(
            hidden_size=48,
            intermediate_size=96,
            depth=depth,
            num_heads=int(rng.choice([2, 3])),
            out_hidden_size=text.hidden_size,
            num_position_embeddings=int(rng.choice([36, 64])),
            deepstack_layers=tuple(sorted(rng.choice(depth, 3, replace=False).tolist())),
        ),
        text=text,
    )
