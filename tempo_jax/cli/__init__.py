"""The `tempo` command, one file a subcommand."""

from tempo_jax.cli.entry import command, main

__all__ = ["command", "main"]
