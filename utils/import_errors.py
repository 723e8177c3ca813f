"""Imported first by every script: a package that cannot be imported becomes one line and exit code 2.

Many Docker images lack the system libraries of opencv-python, so that `import cv2` fails there.
Needs the standard library only.
"""

from __future__ import annotations

import os
import sys
import traceback
from types import TracebackType

# The packages that pyproject.toml names, by the modules to import.
PACKAGES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "numpy": "numpy",
    "cv2": "opencv-python",
    "matplotlib": "matplotlib",
    "tqdm": "tqdm",
    "yaml": "pyyaml",
    "PIL": "pillow",
}
SYSTEM_LIBRARIES = {    # what the name of a missing library begins with, and Debian's packages that have it
    "libGL": "libgl1 libglib2.0-0",
    "libgthread": "libgl1 libglib2.0-0",
    "libglib": "libgl1 libglib2.0-0",
    "libgomp": "libgomp1",
}


# Besides ImportError, a broken package raises these: torch and torchvision that do not belong
# together, for example, or a package that was built for another NumPy.
BROKEN = (ImportError, OSError, RuntimeError, AttributeError, TypeError, ValueError)


def explain(error: BaseException) -> str | None:
    """Return what to install so that a package of ours can be imported; None for any other error."""
    module = _failing_module(error) if isinstance(error, BROKEN) else None
    if module is None:
        return None
    if isinstance(error, ModuleNotFoundError) and error.name == module:
        return f"{PACKAGES[module]} is not installed: pip install -e . installs what is needed"
    reason = " ".join(str(error).split())
    advice = "pip install --force-reinstall " + PACKAGES[module]
    for library, packages in SYSTEM_LIBRARIES.items():
        if library in reason:
            advice = f"apt-get install {packages}"
    return f"{PACKAGES[module]} cannot be imported ({reason[:200]}): {advice}"


def _failing_module(error: BaseException) -> str | None:
    """The package of ours whose import failed: the missing one, or the one whose code raised the error."""
    if isinstance(error, ImportError):
        name = (error.name or "").partition(".")[0]
        if name in PACKAGES:
            return name
    # Once a package has been imported, an error within it is none of its import.
    modules = [
        frame.f_globals.get("__name__", "").partition(".")[0]
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_name == "<module>"
    ]
    return next((module for module in reversed(modules) if module in PACKAGES), None)


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    text = explain(error)
    if text is None:
        sys.__excepthook__(kind, error, trace)
        return
    main = sys.modules["__main__"]
    name = main.__spec__.name if main.__spec__ else os.path.basename(sys.argv[0])
    print(f"{name}: {text}", file=sys.stderr, flush=True)
    os._exit(2)    # the interpreter itself would end with 1


sys.excepthook = _hook
