"""Worlds whose truth is known: each brings its models, its rows and its judges."""
