"""Allocators by name: a new one is one file and one line here."""

from bandit.allocators.base import Allocator
from bandit.allocators.fixed import Fixed
from bandit.allocators.thompson import Thompson
from bandit.allocators.ucb import Ucb

ALLOCATORS: dict[str, Allocator] = {
    "thompson": Thompson(),
    "kl_ucb": Ucb(),
    "fixed": Fixed(),
}
