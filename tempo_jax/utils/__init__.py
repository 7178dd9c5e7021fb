"""Helpers that depend on no other package: paths, folders, text, trees, progress, command lines."""
