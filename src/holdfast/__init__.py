"""Holdfast: what does it cost to make an open-weight model unsafe, and what raises that cost?"""

__version__ = "0.1.0"
