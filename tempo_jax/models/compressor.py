"""The query-conditioned compressor: a small VLM that writes a segment into memory tokens.

Prompt order: system | video | question | assistant header | memory tokens, plain causal attention
(facts/tempo.md §1.1). Everything up to the end of the video does not depend on the question; its
keys and values are the *prefix*, which an open video may keep for further questions.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from tempo_jax.models.config import Qwen3VLConfig
from tempo_jax.models.decoder import KV
from tempo_jax.models.layers import Embedding
from tempo_jax.models.qwen3_vl import PromptBatch, Qwen3VL, VisionOutput
from tempo_jax.sharding import apart


class Compressor(Qwen3VL):
    """Qwen3-VL with memory tokens and the Yes/No direction of the base model."""

    def __init__(self, config: Qwen3VLConfig, memory_tokens: int, *, rngs: nnx.Rngs, stacked: bool = True):
        super().__init__(config, rngs=rngs, stacked=stacked)
        self.memory = Embedding(memory_tokens, config.text.hidden_size, rngs=rngs)
        self.relevance = RelevanceHead(config.text.hidden_size)

    @property
    def memory_tokens(self) -> int:
        return self.memory.embedding.shape[0]

    @apart()
    def __call__(self, visual: VisionOutput, rows: PromptBatch, length_S, *, remat: bool = False):
        """Memory [S, K, D] and relevance float32 [S] in one pass over whole rows (training).

        rows must leave room for the memory tokens: they take places length_S .. length_S + K - 1,
        right after each row's last token (facts §1.3).
        """
        x, deepstack = self.embed(visual, rows)
        offset = jnp.arange(x.shape[1]) - length_S[:, None]
        is_memory = (offset >= 0) & (offset < self.memory_tokens)
        memory = self.memory(jnp.clip(offset, 0, self.memory_tokens - 1)).astype(x.dtype)
        x = jnp.where(is_memory[..., None], memory, x)
        hidden = self.text(x, rows.positions_3SL, deepstack_FBLD=deepstack, remat=remat)
        places = length_S[:, None] + jnp.arange(-1, self.memory_tokens)
        picked = jnp.take_along_axis(hidden, places[..., None], axis=1)
        return picked[:, 1:], self.relevance(picked[:, 0])

    @apart()
    def prefill(self, visual: VisionOutput, rows: PromptBatch) -> list[KV]:
        """Keys and values of the rows' question-independent part, per layer [S, L, kv_heads, H]."""
        x, deepstack = self.embed(visual, rows)
        return self.text.prefill(x, rows.positions_3SL, deepstack_FBLD=deepstack)[1]

    @apart()
    def compress(self, prefix: list[KV], prefix_length_S, next_position_S, question_ids_Q, question_length):
        """Memory [S, K, D] and relevance float32 [S] of a question asked of every prefix.

        question_ids_Q: int32, right-padded, the tokens after the video, the same for all segments;
        question_length: how many are real (may be traced). next_position_S: the rope position after
        each prefix. Text and memory share one running position on all three axes (facts §1.4).
        """
        segments, total = prefix_length_S.shape[0], question_ids_Q.shape[0] + self.memory_tokens
        place = jnp.arange(total)
        offset = place - question_length
        is_memory = (offset >= 0) & (offset < self.memory_tokens)
        ids = jnp.pad(question_ids_Q, (0, self.memory_tokens))
        memory = self.memory(jnp.clip(offset, 0, self.memory_tokens - 1))
        embedded = self.text.embed(ids)
        x = jnp.where(is_memory[:, None], memory.astype(embedded.dtype), embedded)
        x = jnp.broadcast_to(x, (segments, *x.shape))
        positions = jnp.broadcast_to(next_position_S[:, None] + place, (3, segments, total))
        hidden = self.text.extend(x, positions, prefix, prefix_length_S)
        start = question_length - 1
        picked = jax.lax.dynamic_slice_in_dim(hidden, start, self.memory_tokens + 1, axis=1)
        return picked[:, 1:], self.relevance(picked[:, 0])


class RelevanceHead(nnx.Module):
    """sigmoid((w_yes - w_no) . h) in float32, with the *base* model's rows (facts §3.1)."""

    def __init__(self, size: int):
        self.direction = RelevanceDirection(jnp.zeros(size))

    def __call__(self, hidden_SD) -> jax.Array:
        return nnx.sigmoid(hidden_SD.astype(jnp.float32) @ self.direction[...].astype(jnp.float32))


class RelevanceDirection(nnx.Variable):
    """Not a Param: it is never trained and keeps float32 whatever the model's dtype."""
