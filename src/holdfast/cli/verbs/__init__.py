"""The commands, one file each; each file has a function of its name."""
