"""What every part uses and that knows none of them: paths, object storage, folders, text, trees, progress."""
