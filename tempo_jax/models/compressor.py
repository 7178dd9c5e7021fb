"""The query-conditioned compressor: a small vision-language model that compresses a segment to memory tokens.

Prompt order: system | video | question | assistant header | memory tokens, under plain causal attention
(docs/reference/tempo.md#compressor). What precedes the question does not depend on it: the keys and values of
this *prefix* can be cached for further questions.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from tempo_jax.models.config import Qwen3VLConfig
from tempo_jax.models.decoder import KV
from tempo_jax.models.layers import Embedding
from tempo_jax.models.qwen3_vl import PromptBatch, Qwen3VL, VisionOutput
from tempo_jax.sharding import ENCODER_RULES


class Compressor(Qwen3VL):
    """Qwen3-VL with memory tokens and a relevance head; all of it sharded by ENCODER_RULES."""

    def __init__(self, config: Qwen3VLConfig, memory_tokens: int, *, rngs: nnx.Rngs, stacked: bool = True):
        super().__init__(config, rngs=rngs, stacked=stacked, text_rules=ENCODER_RULES)
        self.memory = Embedding(memory_tokens, config.text.hidden_size, rngs=rngs)
        self.relevance = RelevanceHead(config.text.hidden_size)

    @property
    def memory_tokens(self) -> int:
        return self.memory.embedding.shape[0]

    @jax.named_scope("compressor")
    def __call__(self, visual: VisionOutput, prompts: PromptBatch, prompt_length_S, *, remat: bool = False):
        """Memory [S, K, D] and relevance float32 [S] in one pass over whole prompts (training).

        prompts: padded by at least K: the memory tokens come right after each prompt's last token, at
          index prompt_length_S (docs/reference/tempo.md#memory-tokens).
        """
        x, deepstack = self.embed(visual, prompts)
        offset = jnp.arange(x.shape[1]) - prompt_length_S[:, None]
        is_memory = (offset >= 0) & (offset < self.memory_tokens)
        memory = self.memory(jnp.clip(offset, 0, self.memory_tokens - 1)).astype(x.dtype)
        x = jnp.where(is_memory[..., None], memory, x)
        hidden = self.text(x, prompts.positions_3SL, deepstack_FBLD=deepstack, remat=remat)
        positions = prompt_length_S[:, None] + jnp.arange(-1, self.memory_tokens)
        outputs = jnp.take_along_axis(hidden, positions[..., None], axis=1)
        return outputs[:, 1:], self.relevance(outputs[:, 0])

    @jax.named_scope("compressor_prefill")
    def prefill(self, visual: VisionOutput, prompts: PromptBatch) -> list[KV]:
        """Keys and values of the prompts' question-independent prefix, per layer [S, L, kv_heads, H]."""
        x, deepstack = self.embed(visual, prompts)
        return self.text.prefill(x, prompts.positions_3SL, deepstack_FBLD=deepstack)[1]

    @jax.named_scope("compressor_question")
    def compress(self, prefix: list[KV], prefix_length_S, next_position_S, question_ids_Q, question_length):
        """Memory [S, K, D] and relevance float32 [S] of every prefix, given a question.

        Args:
          prefix: Keys and values as `prefill` returns them.
          prefix_length_S: Tokens of each prefix.
          next_position_S: The RoPE position after each prefix. Question and memory tokens share one running
            position on all three axes (docs/reference/tempo.md#positions).
          question_ids_Q: int32, the tokens after the video, the same for all segments; right-padded.
          question_length: How many of them are real; may be traced.
        """
        segments, total = prefix_length_S.shape[0], question_ids_Q.shape[0] + self.memory_tokens
        position = jnp.arange(total)
        offset = position - question_length
        is_memory = (offset >= 0) & (offset < self.memory_tokens)
        ids = jnp.pad(question_ids_Q, (0, self.memory_tokens))
        memory = self.memory(jnp.clip(offset, 0, self.memory_tokens - 1))
        embedded = self.text.embed(ids)
        x = jnp.where(is_memory[:, None], memory.astype(embedded.dtype), embedded)
        x = jnp.broadcast_to(x, (segments, *x.shape))
        positions = jnp.broadcast_to(next_position_S[:, None] + position, (3, segments, total))
        hidden = self.text.extend(x, positions, prefix, prefix_length_S)
        start = question_length - 1
        outputs = jax.lax.dynamic_slice_in_dim(hidden, start, self.memory_tokens + 1, axis=1)
        return outputs[:, 1:], self.relevance(outputs[:, 0])


class RelevanceHead(nnx.Module):
    """sigmoid((w_yes - w_no) . h) in float32, w: rows of the *base* model's language-model head.

    See docs/reference/tempo.md#relevance.
    """

    def __init__(self, size: int):
        self.direction = RelevanceDirection(jnp.zeros(size))

    def __call__(self, hidden_SD) -> jax.Array:
        return nnx.sigmoid(hidden_SD.astype(jnp.float32) @ self.direction[...].astype(jnp.float32))


class RelevanceDirection(nnx.Variable):
    """No nnx.Param: it is never trained, and stays float32 whatever the model's dtype."""
