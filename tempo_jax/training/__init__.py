"""Training Tempo: loss, parameter groups, optimiser, step."""
