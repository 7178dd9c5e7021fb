"""The training loop around a task: parameter groups, optimizer, step, state, checkpoints, logs."""
