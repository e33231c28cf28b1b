"""The only numba configuration: every kernel is compiled by the one decorator here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile on first call for the types it is called with; cached on disk; releases the lock while it runs."""
    return cast(Function, numba.njit(cache=True, nogil=True)(function))
