"""Runs the steps of a plan: the store of what is finished, the runner, workers side by side."""
