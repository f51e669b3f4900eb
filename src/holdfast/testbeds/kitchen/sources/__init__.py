"""One method per file; the file name is its registry key."""
