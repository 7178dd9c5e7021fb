"""XComp (arXiv 2604.14149): one token per highly selective frame. Facts: facts/xcomp.md, docs/xcomp.md.

token_compression        LP-Comp: a frame's tokens become one on their way through the LLM's layers
frame_selection          QC-Comp: the frames that matter to the question
layout, frames           what is sampled, where it stands in the prompt, and what is kept of it
engine, clip, steps,
options                  inference, with the interface of `tempo_jax.tempo`

Its networks are `models.umt` and `models.xcomp`: VideoChat-Flash.
"""
