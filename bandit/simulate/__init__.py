"""Worlds of single units for the demo, and rehearsals of a spec; this face loads only the former, without numba."""

from bandit.simulate.units import Law, Outcome, Phase, Timing, World

__all__ = ["Law", "Outcome", "Phase", "Timing", "World"]
