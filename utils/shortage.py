"""What a machine ran out of, as the error messages of PyTorch and the system tell it."""

from __future__ import annotations

import errno
import re

# The kinds are numbers of `errno`, so that a process that ends for want of something can tell by
# its exit code what it was. ENOSPC is shared memory here, ECHILD the death of a data worker.
ADVICE = {
    errno.ENOMEM: "out of memory; train.accumulation=2, or a smaller train.batch_size, data.size "
    "or test.size, needs less",
    errno.ENOSPC: "/dev/shm is too small for {workers}: use data.workers=0, or docker run "
    "--ipc=host",
    errno.EMFILE: "too many open files for {workers}: raise the limit with `ulimit -n`, or lower "
    "data.workers",
    errno.ECHILD: "a data worker was killed, probably for lack of memory; lower data.workers, then "
    "--resume",
}

# The first that fits counts. "memory" alone says nothing: an illegal memory access is a bug.
_PATTERNS = (
    (r"too many open files|\bancdata\b", errno.EMFILE),
    (r"unable to mmap .*cannot allocate memory", errno.ENOMEM),
    (r"no space left on device", errno.ENOSPC),
    (r"unable to open shared memory", errno.EMFILE),
    (r"unable to \w+ shared memory|unable to (mmap|resize|stretch) ", errno.ENOSPC),
    (r"DataLoader worker .*(bus error|shared memory)", errno.ENOSPC),
    (r"DataLoader worker \(pid", errno.ECHILD),
    (r"\bout of memory\b|can't allocate memory", errno.ENOMEM),
)


def find_shortage(error: BaseException) -> int | None:
    """Return the kind of shortage, a key of `ADVICE`, that an error tells of, or None."""
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, OSError):
        number = errno.EMFILE if error.errno == errno.ENFILE else error.errno
        return number if number in (errno.EMFILE, errno.ENOMEM) else None    # ENOSPC is a full disk
    if isinstance(error, RuntimeError):    # torch.OutOfMemoryError is one too
        for pattern, kind in _PATTERNS:
            if re.search(pattern, str(error), re.IGNORECASE | re.DOTALL):
                return kind
    return None


def advise(kind: int, *, workers: str = "the data workers") -> str:
    """Return one line that says what is short and what helps."""
    return ADVICE[kind].format(workers=workers)
