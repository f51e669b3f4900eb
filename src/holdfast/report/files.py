"""Everything a report consists of, written into one folder from a study's tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from holdfast.disk import write_bytes
from holdfast.report import costs, html, provider, verdict
from holdfast.report.model_card import model_card
from holdfast.report.table_files import write_table
from holdfast.stats.findings import find
from holdfast.stats.records import Findings
from holdfast.stats.rows import Outcomes

CARDS = "cards"
"""The folder of model cards: `cards/LINE-UP/MODEL_CARD.md`."""


def write_findings(tables: Mapping[str, Any], folder: Path, *, show_text: bool = False) -> Findings:
    """Write `report.html`, `verdict.json`, the tables of costs and free attacks, and the cards.

    Args:
        tables: `outcomes`, `lineups`, `meta`, and perhaps `analysis`, `scatter` and `provider`.
        folder: where to; it exists.
    """
    given = tables["outcomes"]
    outcomes = given if isinstance(given, Outcomes) else Outcomes(given)
    found = find(outcomes, tables["lineups"], tables["meta"])
    hosted = provider.findings(tables)
    if hosted is not None:
        found = replace(found, hosted=hosted)
        write_table(provider.rows(hosted), provider.COLUMNS, folder / "provider_rows")
    looks = {name: tables[name] for name in ("analysis", "scatter") if name in tables}
    page = html.page(found, outcomes, **looks, show_text=show_text)
    write_bytes(folder / "report.html", page.encode("utf-8", "backslashreplace"))
    write_table(costs.cost_rows(found), costs.COST_COLUMNS, folder / "costs")
    write_table(costs.free_rows(found), costs.FREE_COLUMNS, folder / "free")
    data = json.dumps(verdict.verdict(found), indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(folder / verdict.FILE, f"{data}\n".encode("utf-8", "backslashreplace"))
    for name in found.lineups:
        card = model_card(found, name).encode("utf-8", "backslashreplace")
        write_bytes(folder / CARDS / name / "MODEL_CARD.md", card)
    return found
