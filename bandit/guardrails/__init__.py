"""Registry of guardrails by the ``kind`` of the spec."""

from bandit.guardrails.base import GuardrailTest
from bandit.guardrails.breaker import Breaker
from bandit.guardrails.harm import Harm
from bandit.guardrails.rate_limit import RateLimit

GUARDRAILS: dict[str, GuardrailTest] = {"rate_limit": RateLimit(), "harm": Harm(), "breaker": Breaker()}
