"""Several processes that work as one, as torchrun starts them. In a process of its own everything here does nothing."""

from __future__ import annotations

import gc
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from utils.script import FAILED

T = TypeVar("T")
START_SECONDS = 30 * 60    # in which all processes must have started, as torch gives them elsewhere


class Job:
    """What the processes of one start of torchrun know of those that it restarted them for.

    It is kept in torchrun's store, which ends with the job, so another job with the same id and
    folder knows nothing of it. A process of its own has no store.
    """

    def __init__(self, store: dist.Store | None = None):
        self.store = store

    def has_started(self) -> bool:
        """Return whether an earlier attempt of this job took up its run."""
        return self.store is not None and self.store.check(["run started"])

    def start(self) -> None:
        """Note that the run is this job's, so that the next attempt may go on with it."""
        if self.store is not None:
            self.store.set("run started", "yes")


@contextmanager
def process_group() -> Iterator[Job]:
    """Join the other processes, over NCCL between GPUs and Gloo between CPUs; alone, join nothing.

    torchrun starts them, or anything else that sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
    An error in the block ends all of them: the first process that has one raises it, the others end
    in silence. ValueError in one line for a process that was lost.
    """
    if not _is_one_of_several():
        yield Job()
        return
    store, number, count = _join_store()
    attempt = dist.PrefixStore(agree_on_attempt(store, number, count), store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(backend, store=attempt, rank=number, world_size=count)
        yield Job(store)
        dist.destroy_process_group()
        # DistributedDataParallel stands in a cycle and holds the group, whose threads would then end with the interpreter: one that
        # still holds a tensor then aborts the process.
        gc.collect()
    except (ValueError, OSError) as error:
        _raise_first(error, attempt)
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        reason = re.sub(r"^\[[^]]*\] *", "", str(error).strip()).partition(". ")[0]    # without the line of their source
        advice = "torchrun --max-restarts=3 goes on by itself"
        _raise_first(ValueError(f"process {number} lost another one ({reason}); {advice}"), attempt)


def _is_one_of_several() -> bool:
    """Return whether the environment names other processes; ValueError if it does not say where."""
    if dist.is_torchelastic_launched():
        return True
    if "RANK" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        return False
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if not missing:
        return True
    raise ValueError(
        f"RANK={os.environ['RANK']} and WORLD_SIZE={os.environ['WORLD_SIZE']} ask for several "
        f"processes, but {' and '.join(missing)} of the first one is not set; start them by "
        "torchrun --nproc_per_node=N train.py ..., or unset RANK to train alone"
    )


def _join_store() -> tuple[dist.Store, int, int]:
    """Return the store of all processes, this one's number and their count; ValueError after a wait."""
    try:
        store, number, count = next(rendezvous("env://"))
    except dist.DistError as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise ValueError(f"process 0 cannot be reached at {place} ({error})") from None
    while isinstance(store, dist.PrefixStore):    # torch's own prefix counts the restarts
        store = store.underlying_store
    return store, number, count


def agree_on_attempt(store: dist.Store, number: int, count: int) -> str:
    """Return a name that the `count` processes of this attempt share, and those of no other one.

    The store outlives the attempts, and the restarts that TORCHELASTIC_RESTART_COUNT counts are those
    of one machine. So process 0 draws the name and gives it to each other process by a number that
    this one has just drawn, until all have taken it.
    """
    own = uuid.uuid4().hex
    if number:
        store.set(f"joining/{number}", own)
        try:
            attempt = store.get(f"attempt of/{own}").decode()    # waits for it
        except dist.DistError as error:
            raise ValueError(f"process {number} of {count}: process 0 did not start ({error})") from None
        store.set(f"{attempt}/joined/{number}", "yes")
        return attempt
    others = set(range(1, count))
    deadline = time.monotonic() + START_SECONDS
    while others:
        for other in others:
            if store.check([f"joining/{other}"]):    # maybe that of an earlier attempt
                store.set(f"attempt of/{store.get(f'joining/{other}').decode()}", own)
        others = {other for other in others if not store.check([f"{own}/joined/{other}"])}
        if time.monotonic() > deadline:
            raise ValueError(f"process {min(others)} of {count} did not start")
        time.sleep(0.02)
    return own


def _raise_first(error: Exception, attempt: dist.Store) -> NoReturn:
    """Raise the error in the first process that has one; end the others, who would only repeat it."""
    try:
        is_first = attempt.add("errors", 1) == 1
    except RuntimeError:    # the store ended with the process that kept it
        is_first = True
    if not is_first:
        raise SystemExit(FAILED)
    raise error from None


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
    """Return this process's number among those of its machine: the GPU it takes."""
    if world_size() == 1 or "LOCAL_RANK" in os.environ:
        return int(os.environ.get("LOCAL_RANK", 0)) if dist.is_initialized() else 0
    hosts = gather(socket.gethostname())
    # A launcher such as srun may show each process only its own GPU, which is number 0 then.
    return hosts[: rank()].count(hosts[rank()]) % max(1, torch.cuda.device_count())


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


def from_main(value: T) -> T:
    """Return what the main process gives, in all processes."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def require_same(values: Mapping[str, Any]) -> None:
    """Raise ValueError in all processes if one has another value than the first under some name."""
    of_processes = gather((socket.gethostname(), dict(values)))
    main_host, expected = of_processes[0]
    for number, (host, found) in enumerate(of_processes):
        for name, value in expected.items():
            if found[name] != value:
                raise ValueError(
                    f"{name}: process 0 on {main_host} has {value}, process {number} on {host} has "
                    f"{found[name]}; all processes need the same command and the same files"
                )


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
