"""What every part uses and that knows none of them: paths, folders, text, trees, progress, command lines."""
