"""Helpers that depend on no other package: paths, object storage, folders, text, trees, progress."""
