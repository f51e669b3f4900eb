"""llama.cpp's server on a GGUF file: `python llama.py FILE NAME PORT` serves until stdin closes."""

from __future__ import annotations

import sys

import xllamacpp


def server(file: str, name: str, port: int = 0) -> xllamacpp.Server:
    """Start it, two requests at once and 4,096 tokens each; port 0 takes a free one."""
    set_up = xllamacpp.CommonParams()
    set_up.model.path = file
    set_up.model_alias = {name}
    set_up.n_ctx, set_up.n_parallel, set_up.warmup, set_up.port = 8192, 2, False, port
    set_up.cpuparams.n_threads = set_up.cpuparams_batch.n_threads = 1
    return xllamacpp.Server(set_up)


if __name__ == "__main__":
    running = server(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    sys.stdout.write(f"{running.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()
