"""From sources to rows, from rows to tokens."""
