"""Shorter pauses of the garbage collector, for programs that promise milliseconds.

A full collection walks through every object while all threads wait, and most objects of a program are its imports: 26
ms of them in an agent on x86, 61 in the cloud service, again and again. They stay until the end anyway.

Programs do this. A library leaves it to the program that it is part of.
"""

from __future__ import annotations

import gc


def set_imports_aside() -> None:
    """Let the collector pass over all that is there now; call it after the imports, before the work begins."""
    gc.freeze()
