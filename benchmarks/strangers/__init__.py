"""Break inputs, stores, commands and models on purpose, and count what is told badly."""
