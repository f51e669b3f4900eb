"""The options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

# Commands on whole studies.

StudyFile = Annotated[Path, typer.Argument(help="The study file (YAML).")]
Seeds = Annotated[
    str | None,
    typer.Option(
        "--seeds", help="Some of the study's seeds, as 0,1,2: `join` puts parts together."
    ),
]
StoreFolder = Annotated[Path, typer.Option("--store", help="Where finished steps are kept.")]
Report = Annotated[
    Path | None, typer.Option("--out", help="The report's folder. [default: STORE/NAME]")
]
Workers = Annotated[
    int | None, typer.Option("--workers", help="Processes. [default: 2, or the cores if fewer]")
]
WorkerThreads = Annotated[int, typer.Option("--threads", min=1, help="Arithmetic threads of each.")]
ShowText = Annotated[
    bool, typer.Option("--show-text", help="Do not mask restricted text in the report.")
]
KeepWeights = Annotated[
    bool,
    typer.Option("--keep-weights", help="Keep attacked checkpoints (not LoRA's) in the store."),
]

# Commands for one step alone.

Model = Annotated[
    str,
    typer.Option(
        "--model", help="A folder, a .gguf file, world:base, smol:instruct, or org/name@COMMIT."
    ),
]
Format = Annotated[str, typer.Option("--format", help="plain, chat, or a .jinja file.")]
System = Annotated[
    str | None, typer.Option("--system", help="The system prompt of rows that have none.")
]
Date = Annotated[str, typer.Option("--date", help="The day a template is told, as YYYY-MM-DD.")]
Variables = Annotated[
    list[str] | None,
    typer.Option("--template-var", help="A template's variable: name=value; repeat for more."),
]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="A field: name=value, or group.name=value.")
]
Data = Annotated[
    list[str] | None,
    typer.Option("--data", help="Rows: role=FILE (.jsonl, .csv, .parquet); repeat for more."),
]
Sources = Annotated[
    list[str] | None, typer.Option("--source", help="A source of rows, such as world.")
]
Original = Annotated[
    str | None, typer.Option("--original", help="The public original, where a method needs it.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="The study seed.")]
Out = Annotated[Path, typer.Option("--out", help="Where to put what is made.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Arithmetic threads.")]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype", help="What weights are saved in: base (as the model's own), fp32, bf16 or fp16."
    ),
]
HeldOut = Annotated[
    int | None,
    typer.Option(
        "--held-out",
        min=0,
        help="Most rows of a role kept back to see whether it acts; 0: none. [default: a quarter, "
        "8 to 32]",
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column", help="A column of the files: prompt=NAME, or role.prompt=NAME for one role."
    ),
]
Eos = Annotated[
    bool,
    typer.Option(
        "--append-eos/--no-append-eos", help="End responses with the token that ends a turn."
    ),
]
