"""Registry of guardrails by the ``kind`` of the spec."""

from bandit.guardrails.base import GuardrailTest
from bandit.guardrails.became_worse import BecameWorse
from bandit.guardrails.breaker import Breaker
from bandit.guardrails.drift import Drift
from bandit.guardrails.event_rate import EventRate
from bandit.guardrails.harm import Harm
from bandit.guardrails.quantile_harm import QuantileHarm
from bandit.guardrails.quantile_limit import QuantileLimit
from bandit.guardrails.rate_limit import RateLimit
from bandit.guardrails.response_rate import ResponseRate
from bandit.guardrails.sample_ratio import SampleRatio
from bandit.guardrails.silence import Silence

GUARDRAILS: dict[str, GuardrailTest] = {
    "rate_limit": RateLimit(),
    "harm": Harm(),
    "breaker": Breaker(),
    "quantile_limit": QuantileLimit(),
    "quantile_harm": QuantileHarm(),
    "event_rate": EventRate(),
    "became_worse": BecameWorse(),
    "sample_ratio": SampleRatio(),
    "silence": Silence(),
    "response_rate": ResponseRate(),
    "drift": Drift(),
}
