"""Guards against torch's process-wide state: autocast, and threads after a fork."""

import os
from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Switch autocast off for a block, since it would round exact computations."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _use_one_thread() -> None:
    torch.set_num_threads(1)


# OpenMP's threads do not survive a fork, and a child that uses them waits forever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_use_one_thread)
