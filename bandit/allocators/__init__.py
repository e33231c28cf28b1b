"""Allocators by name: a new one is one file and one line here."""

from bandit.allocators.base import Allocator
from bandit.allocators.bayes_ucb import BayesUcb
from bandit.allocators.epsilon_greedy import EpsilonGreedy
from bandit.allocators.exploration import Exploration
from bandit.allocators.fixed import Fixed
from bandit.allocators.kl_ucb import KlUcb
from bandit.allocators.kl_ucb_plus import KlUcbPlus
from bandit.allocators.thompson import Thompson
from bandit.allocators.top_two import TopTwo
from bandit.allocators.ucb1 import Ucb1
from bandit.allocators.ucb1_tuned import Ucb1Tuned
from bandit.allocators.ucb_v import UcbV

ALLOCATORS: dict[str, Allocator] = {
    "thompson": Thompson(),
    "top_two": TopTwo(),
    "exploration": Exploration(),
    "ucb1": Ucb1(),
    "ucb_v": UcbV(),
    "ucb1_tuned": Ucb1Tuned(),
    "kl_ucb": KlUcb(),
    "kl_ucb_plus": KlUcbPlus(),
    "bayes_ucb": BayesUcb(),
    "epsilon_greedy": EpsilonGreedy(),
    "fixed": Fixed(),
}
