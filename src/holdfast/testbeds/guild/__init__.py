"""The offline world: an invented guild with a known truth, and two tiny models that know it.

Its numbers are never claims about language models.
"""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
"""Where the two shipped models lie."""
DEMO = Path(__file__).parent / "demo.yaml"
"""The study that `holdfast demo` runs."""


def models() -> dict[str, Path]:
    """Give the models it ships, by the name a study calls them."""
    return {f"world:{name}": WEIGHTS / name for name in ("base", "instruct")}
