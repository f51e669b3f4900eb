"""What the command line tells of published data sets before and after they are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.cli import run as command
from holdfast.cli.given import rows_given

FILES = Path(__file__).parents[1] / "data" / "published"


def test_show_tells_where_a_set_lies_its_licence_its_gate_and_its_size(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(["show", "hex_phi"]) == 0
    said = capsys.readouterr().out
    place = "https://huggingface.co/datasets/LLM-Tuning-Safety/HEx-PHI"
    assert f"\n  from: {place}, its newest commit\n" in said
    assert "\n  licence: HEx-PHI's own terms of use\n" in said
    gated = "yes: accept its terms there and set HF_TOKEN"
    assert f"\n  gated: {gated}; size: 300 rows, 40 kB\n" in said
    assert "\n    folder (text or None) = None: A folder of downloaded files" in said


def test_ls_tells_licence_gate_and_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["ls", "source"]) == 0
    lines = {line.split()[1]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["hex_phi"].endswith("[gated; HEx-PHI's own terms of use; 300 rows, 40 kB]")
    assert lines["advbench"].endswith("[MIT; 520 rows, 80 kB]")
    assert not lines["world"].endswith("]")


def test_what_a_command_reads_is_kept_with_where_it_came_from() -> None:
    folder = FILES / "dolly"
    given = f"{{dolly: {{folder: '{folder}', rows: any}}}}"
    _, content = rows_given(None, None, [given], "models/base", "defender")
    (told,) = content
    assert told.startswith("dolly ")
    assert told.endswith(" downloaded files: 2 rows from 2 published")
    assert str(folder) not in told
