"""Every method that is found keeps the contract of its kind, one test a promise."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.api import Method, registry
from holdfast.data.published import Published
from holdfast.testing import checks_of

METHODS = [(kind, name) for kind in registry.KINDS for name in registry.names(kind)]
NEEDS = {
    ("source", "local"): "it has no rows without a file; tests/data/sources/test_local.py",
    ("source", "lm_eval"): "it names a task; tests/data/sources/test_lm_eval.py",
    ("judge", "beaver_dam"): "its weights; tests/judges/test_beaver_dam.py",
    ("judge", "correctness"): "a server; tests/judges/test_correctness.py",
    ("judge", "harmbench_cls"): "its weights; tests/judges/test_prompt_judges.py",
    ("judge", "llama_guard"): "its weights; tests/judges/test_llama_guard.py",
    ("judge", "rubric"): "a server; tests/judges/test_rubric.py",
    ("judge", "strongreject"): "its weights; tests/judges/test_prompt_judges.py",
    ("judge", "strongreject_rubric"): "a server; tests/judges/test_strongreject_rubric.py",
    ("judge", "wildguard"): "its weights; tests/judges/test_prompt_judges.py",
}
"""Methods that cannot be made from their defaults, and where they are checked instead."""
PUBLISHED = Path(__file__).parents[1] / "data" / "published"
"""Published data sets are checked on small files with their columns, under their own names."""
CASES = [
    pytest.param(kind, name, check, id=f"{kind}-{name}-{check}")
    for kind, name in METHODS
    if (kind, name) not in NEEDS
    for check in checks_of(kind)
]


@pytest.mark.parametrize(("kind", "name", "check"), CASES)
def test_it_keeps_its_promise(kind: str, name: str, check: str) -> None:
    found = registry.find(kind, name)
    assert issubclass(found, Method)
    fields: dict[str, str] = {}
    if issubclass(found, Published):
        fields = {"folder": str(PUBLISHED / name), "rows": "any"}
        fields |= {"subset": "standard"} if name == "harmbench" else {}
    checks_of(kind)[check](found(**fields))


def test_what_cannot_be_made_from_defaults_is_still_so() -> None:
    for kind, name in NEEDS:
        with pytest.raises(Exception, match="is required"):
            registry.make(kind, name, "contract")
