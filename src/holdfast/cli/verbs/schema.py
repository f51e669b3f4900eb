"""`holdfast schema`: print the schema of study files."""

from __future__ import annotations

import json

import typer


def schema() -> None:
    """Print the JSON schema of study files, for editors."""
    from holdfast.study.file import Study

    typer.echo(json.dumps(Study.model_json_schema(), indent=2))
