"""Became worse after a long good life: an e-detector on the scores against the concurrent control.

Evidence over a whole life is slow to turn when an arm was good for long. Here every period may be the one where
trouble began: M <- (M + 1) L for L = exp(l S - psi(l) V) of the period's overlap scores at several l, and for
odds of bad events (``guardrails.harm`` says why their means are at most 1), averaged. While the arm is no worse
than the margin allows, periods until M >= A are A or more on average (Shin, Ramdas & Rinaldo 2024). That is a
run length, not a chance: it is declared as ``run_length`` and spends no alpha; with several detectors each
waits for A times their number, so that the experiment has one false alarm in ``run_length`` periods. Scores are
against the control of the same period, so a baseline that moves is no alarm; nothing decays.

Periods are consumed in the order of their numbers as they mature. One that was passed over by a fold is
consumed after it. What is shown begins where Page's sum of the scores last was 0: about where the trouble
began. Safety is that of harm over the whole life, less the evidence that it ended.
"""

from __future__ import annotations

from bandit.guardrails.harm import Harm
from bandit.kernels import watch
from bandit.spec.model import ExperimentSpec, Guardrail


class BecameWorse(Harm):
    """See the module."""

    def code(self, spec: ExperimentSpec, guardrail: Guardrail) -> int:
        """DETECTOR."""
        del spec, guardrail
        return watch.DETECTOR
