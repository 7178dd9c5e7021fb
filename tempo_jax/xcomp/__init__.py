"""XComp (arXiv 2604.14149): one token per highly selective frame. See docs/reference/xcomp.md.

token_compression               LP-Comp: a frame's tokens are reduced to one through the LLM's layers
frame_selection                 QC-Comp: frames are selected by the question's attention
layout, frames                  which frames are sampled, the prompt around them, and their visual tokens
engine, clip, steps, options    inference, with the interface of `tempo_jax.tempo`

Its network is `models.xcomp`: VideoChat-Flash.
"""
