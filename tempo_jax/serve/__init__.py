"""`tempo serve`: one process, one model, many people asking (docs/guides/serving.md).

Nothing here is imported by the rest of the package; the HTTP side needs the extra `serve`.
"""
