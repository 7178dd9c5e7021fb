"""Data: preparing sets, the loader, and the minireel world."""
