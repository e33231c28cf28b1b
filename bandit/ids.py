"""Names and ids: their types, shapes and resource paths; the only place that cuts or joins names."""

from __future__ import annotations

import re
from typing import NamedTuple, NewType

from bandit.errors import InvalidArgument

ExperimentName = NewType("ExperimentName", str)
ArmName = NewType("ArmName", str)
MetricName = NewType("MetricName", str)

NAME_PATTERN = r"^[a-z][a-z0-9-]{0,62}$"
METRIC_PATTERN = r"^[a-z][a-z0-9_]{0,62}$"
NAME_RULE = "lower-case letters, digits and hyphens, a letter first, at most 63 characters"
METRIC_RULE = "lower-case letters, digits and underscores, a letter first, at most 63 characters"
MAX_UNIT_BYTES = 256

_NAME = re.compile(NAME_PATTERN)


class DecisionId(NamedTuple):
    """A decision's number: which experiment (uid), which issuing server process, which count there.

    Numbers are dense per (experiment, issuer), so "already rewarded" is a place in a page, not a look-up.
    """

    experiment_uid: int
    issuer: int
    number: int

    def __str__(self) -> str:
        return f"{self.experiment_uid:x}.{self.issuer:x}.{self.number:x}"

    @classmethod
    def parse(cls, text: str) -> DecisionId:
        """Inverse of ``str``. Raises InvalidArgument."""
        parts = text.split(".")
        try:
            if len(parts) != 3 or any(not part or part[0] in "+-" for part in parts):
                raise ValueError
            uid, issuer, number = (int(part, 16) for part in parts)
        except ValueError:
            raise InvalidArgument.at(
                "decision_id", f"{text!r} is not a decision id; send it as the decide reply gave it"
            ) from None
        return cls(uid, issuer, number)


def experiment_resource(name: str) -> str:
    """``experiments/{name}``."""
    return f"experiments/{name}"


def arm_resource(experiment: str, arm: str) -> str:
    """``experiments/{experiment}/arms/{arm}``."""
    return f"experiments/{experiment}/arms/{arm}"


def parse_name(name: str, field: str) -> str:
    """A checked name, or InvalidArgument that says the rule."""
    if not _NAME.fullmatch(name):
        raise InvalidArgument.at(field, f"{name!r} is not a name; use {NAME_RULE}")
    return name


def parse_experiment(resource: str, field: str = "name") -> ExperimentName:
    """The experiment of ``experiments/{experiment}``. Raises InvalidArgument."""
    collection, _, name = resource.partition("/")
    if collection != "experiments" or not _NAME.fullmatch(name):
        raise InvalidArgument.at(
            field, f"{resource!r} is not an experiment; write experiments/NAME, NAME of {NAME_RULE}"
        )
    return ExperimentName(name)


def parse_arm(resource: str, field: str = "name") -> tuple[ExperimentName, ArmName]:
    """The parts of ``experiments/{experiment}/arms/{arm}``. Raises InvalidArgument."""
    parts = resource.split("/")
    if (
        len(parts) != 4
        or parts[0] != "experiments"
        or parts[2] != "arms"
        or not all(map(_NAME.fullmatch, parts[1::2]))
    ):
        raise InvalidArgument.at(
            field, f"{resource!r} is not an arm; write experiments/NAME/arms/ARM, names of {NAME_RULE}"
        )
    return ExperimentName(parts[1]), ArmName(parts[3])


def ledger_name(experiment: str, partition: int = 0) -> str:
    """Name of the ledger of one partition of an experiment; the first one has the experiment's own name."""
    return f"{experiment}/{partition}" if partition else experiment


def trailing_name(experiment: str) -> str:
    """Name of the ledger that an experiment keeps of the time before the events it keeps; no other name has a ``~``."""
    return f"{experiment}~"


def ledger_names(experiment: str, partitions: int) -> tuple[str, ...]:
    """Names of the ledgers of all partitions."""
    return tuple(ledger_name(experiment, partition) for partition in range(partitions))


def parse_ledger(name: str) -> tuple[str, int]:
    """Experiment and partition of a ledger's name. Raises InvalidArgument."""
    experiment, slash, partition = name.partition("/")
    if slash and (not partition.isdecimal() or not partition.isascii() or partition.startswith("0")):
        raise InvalidArgument.at(
            "ledger", f"{name!r} is not a ledger; write EXPERIMENT or EXPERIMENT/PARTITION"
        )
    return parse_name(experiment, "ledger"), int(partition) if slash else 0
