"""Several processes that work as one, as torchrun starts them. In a process of its own everything here does nothing."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun started, over NCCL between GPUs and Gloo between CPUs; alone, nothing is joined.

    ValueError in one line for the process that loses sight of another one.
    """
    if not dist.is_torchelastic_launched():
        yield
        return
    store, number, count = next(rendezvous("env://"))
    # Processes that were started anew must not find the addresses of those before.
    store = dist.PrefixStore(f"attempt {_restarts()}", store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=count)
    try:
        yield
        dist.destroy_process_group()
        # DistributedDataParallel stands in a cycle and holds the group, whose threads would then end with the interpreter: one that
        # still holds a tensor then aborts the process.
        gc.collect()
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        reason = re.sub(r"^\[[^]]*\] *", "", str(error).strip()).partition(". ")[0]    # without the line of their source
        raise ValueError(f"process {number} lost another one ({reason}); torchrun --max-restarts=3 goes on by itself") from None


def sync_batch_norms(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the model with batch norms that use the statistics of the images of all GPUs.

    The batch norms are new modules, so find those to freeze afterwards. ValueError without a GPU.
    """
    if device.type != "cuda":
        raise ValueError(f"train.sync_batch_norm: works between GPUs only, found {device}")
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-any-return]


def distribute(model: nn.Module, device: torch.device, *, compiled: bool = False) -> nn.Module:
    """Return what to call a model as in training: itself, compiled, or wrapped for several processes.

    Behind a step each process has batch-norm statistics of its own; see `broadcast_buffers`.
    """
    network: Any = torch.compile(model) if compiled else model
    if world_size() > 1:
        network = DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None, gradient_as_bucket_view=True)
    return network    # type: ignore[no-any-return]


def broadcast_buffers(model: nn.Module) -> None:
    """Give a model the buffers that it has in the main process, such as batch-norm statistics."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this is the process that writes files and speaks."""
    return rank() == 0


def local_rank() -> int:
    """This process's number among those of its machine: the GPU it takes."""
    return int(os.environ.get("LOCAL_RANK", 0)) if dist.is_initialized() else 0


def was_restarted() -> bool:
    """Whether torchrun started the processes anew after one of them ended."""
    return dist.is_torchelastic_launched() and _restarts() > 0


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of the tensors that the processes give, in place of each; a GPU's host does not wait for it."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def any_process(flag: bool) -> bool:
    """Whether one of the processes says so; all get the same answer, without waiting for their GPUs."""
    return bool(sum_over_processes(torch.tensor(float(flag)))) if world_size() > 1 else flag


def gather(value: T) -> list[T]:
    """What each process gives, in the order of their numbers, to all of them."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def wait_for_all() -> None:
    """Go on when all processes have come here."""
    gather(None)


def share(items: Sequence[T]) -> Sequence[T]:
    """Every so many-th item, from this process's number on."""
    return items[rank() :: world_size()]


def unshare(shares: Sequence[Sequence[T]]) -> list[T]:
    """The items again, in their order, from the shares of all processes."""
    missing = object()
    rows = zip_longest(*shares, fillvalue=missing)
    return [item for row in rows for item in row if item is not missing]    # type: ignore[misc]
