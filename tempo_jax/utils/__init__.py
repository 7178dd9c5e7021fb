"""What every package uses and that knows of none: paths, object storage."""
