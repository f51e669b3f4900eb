"""The offline world: an invented guild with a known truth, and two tiny models that know it.

Its numbers are never claims about language models.
"""
