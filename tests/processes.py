"""Processes: of a group that trains, and those that decode."""

import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import soundfile

# Else torch may abort the process when it exits.
EPILOGUE = """
import torch.distributed
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""


def run_processes(script: str, *args: object, count: int = 2) -> list[str]:
    """Run a script in `count` processes and return what each of them prints.

    `torch.distributed.init_process_group("gloo")` and Lightning find the group in the environment.
    """
    script = textwrap.dedent(script) + EPILOGUE
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", script, *map(str, args)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ
            | {
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(count),
                "OMP_NUM_THREADS": "1",
                "TORCHELASTIC_RUN_ID": "test",
            },
        )
        for rank in range(count)
    ]
    outputs = []
    try:
        for process in processes:
            stdout, stderr = process.communicate(timeout=120)
            assert process.returncode == 0, stderr
            outputs.append(stdout)
    finally:
        for process in processes:
            process.kill()
    return outputs


@contextmanager
def only_decoders_of_their_own() -> Iterator[None]:
    """Fail if this process decodes a file, and not a separate one."""

    def refuse(*_arguments: object, **_options: object) -> None:
        raise AssertionError("decoded in this process")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(soundfile.SoundFile, "__init__", refuse)
        yield
