"""Baselines by name: a new one is one file and one line here."""

from bandit.baselines.base import Baseline
from bandit.baselines.contrast import Contrast
from bandit.baselines.stationary import Stationary
from bandit.baselines.stratified import Stratified

BASELINES: dict[str, Baseline] = {
    "contrast": Contrast(),
    "stratified": Stratified(),
    "stationary": Stationary(),
}
