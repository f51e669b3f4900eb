"""What comes with the package to test on: models, worlds whose truth is known, rows, judges."""
