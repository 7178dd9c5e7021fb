"""`python -m tempo_jax.cli` is `tempo`."""

from tempo_jax.cli import command

command()
