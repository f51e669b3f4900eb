"""Studies: the matrix of line-ups and attacks, its plan, its store and its engine."""
