"""Holdfast: what does it cost to make an open-weight model unsafe, and what raises that cost?"""

import logging

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())
