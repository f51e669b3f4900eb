"""`holdfast schema`: print the schema of study files, or of files of trials."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from holdfast.cli.saying import say
from holdfast.errors import ConfigError, did_you_mean


def schema(
    file: Annotated[str, typer.Argument(help="study, or trials.")] = "study",
) -> None:
    """Print the JSON schema of study files or of files of trials, for editors."""
    from holdfast.study.file import Study
    from holdfast.study.trials import Trials

    kinds = {"study": Study, "trials": Trials}
    if file not in kinds:
        raise ConfigError("schema", f"no kind of file '{file}'", did_you_mean(file, kinds))
    say(json.dumps(kinds[file].model_json_schema(), indent=2))
