"""What a source's rows are keyed by where it gives no hash of its own."""

from __future__ import annotations

from holdfast.api import Source
from holdfast.data.example import Example, Role, example


class Given(Source):
    """One row of a category."""

    category: str
    """The row's category."""

    def examples(self) -> list[Example]:
        return [example("placeholder prompt 1", "No.", role=Role.REFUSAL, category=self.category)]


def test_the_content_follows_the_category() -> None:
    first, same, other = (Given(category=one) for one in ("red", "red", "blue"))
    assert first.content() == same.content() != other.content()
    assert first.origin() == ""
