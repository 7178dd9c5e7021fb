"""XComp (arXiv 2604.14149): one token per highly selective frame. Facts: facts/xcomp.md, docs/xcomp.md.

umt, merging, model      vision tower, 16 tokens a frame, projector and LLM: VideoChat-Flash
schedule, lp_comp        LP-Comp: a frame's tokens become one on their way through the LLM's layers
sampling, chunks,
scores, select           QC-Comp: the frames that matter to the question
engine, clip, programs   asking, with the interface of `tempo_jax.inference`
"""
