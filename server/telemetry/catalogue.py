"""Every metric of the service, in one list: name, kind, labels and meaning; it holds no value.

Label keys are a fixed list, and every label has few values: what callers write (units, cohorts, arms) is none of
them. The names of experiments are one, for the first 200; the rest share the value `other`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, NamedTuple, TypeAlias

OTHER = "other"
MOST_EXPERIMENTS = 200
# For labels whose values are ours, and few: a wall against a mistake of ours.
MOST_WORDS = 64
LABELS = frozenset(
    {
        *("action", "alarm", "code", "experiment", "method", "mode", "outcome", "part", "python", "reason"),
        *("source", "version"),
    }
)

# How the gauges of several processes become one; `live`: those of a dead process are gone.
Merge: TypeAlias = Literal["livemin", "livemax", "livesum", "livemostrecent"]


class Kind(StrEnum):
    """What the numbers do."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Family(NamedTuple):
    """One metric. ``merge`` for gauges, ``bounds`` (s, rising) for histograms."""

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()
    merge: Merge = "livemostrecent"
    bounds: tuple[float, ...] = ()


_QUICK = (25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 1.0, 10.0)
_STEADY = (1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

# Serving
RPCS = Family("banditd_rpcs_total", Kind.COUNTER, "Calls that ended.", ("method", "code"))
RPC_SECONDS = Family(
    "banditd_rpc_seconds",
    Kind.HISTOGRAM,
    "Time in the server of calls that ended.",
    ("method",),
    bounds=_QUICK,
)
DECISIONS = Family(
    "banditd_decisions_total",
    Kind.COUNTER,
    "Decisions, by why the arm was chosen and how good the state was.",
    ("reason", "mode"),
)
REWARDS = Family(
    "banditd_rewards_total", Kind.COUNTER, "Rewards, by how they ended here.", ("outcome", "reason")
)
APPEND_SECONDS = Family(
    "banditd_log_append_seconds", Kind.HISTOGRAM, "Time of an append to the log.", bounds=_STEADY
)
JOURNALED = Family(
    "banditd_exposures_journaled_total", Kind.COUNTER, "Decisions kept in a journal to be counted."
)
NOT_JOURNALED = Family(
    "banditd_exposures_not_journaled_total", Kind.COUNTER, "Decisions that no journal had room for."
)
PUT_BACK = Family(
    "banditd_log_entries_put_back_total",
    Kind.COUNTER,
    "Log entries of acknowledged rewards that the store had lost and that were appended again.",
)
FEATURES_MISSING = Family(
    "banditd_features_missing_total",
    Kind.COUNTER,
    "Features that a decide request did not bring or that could not be read; each counted as its default.",
)
SHIPPED = Family("banditd_exposures_shipped_total", Kind.COUNTER, "Decisions that the log has taken.")
DROPPED = Family(
    "banditd_exposures_dropped_total", Kind.COUNTER, "Decisions whose experiment was deleted meanwhile."
)
BACKLOG = Family(
    "banditd_journal_backlog_records",
    Kind.GAUGE,
    "Decisions in journals that the log has not taken yet.",
    merge="livesum",
)
SNAPSHOT_READ = Family(
    "banditd_snapshot_read_timestamp_seconds",
    Kind.GAUGE,
    "When the server that is furthest behind last read what the store has.",
    merge="livemin",
)
SNAPSHOT_VERSION = Family(
    "banditd_snapshot_version",
    Kind.GAUGE,
    "Version of the store's experiments that the server furthest behind has read.",
    merge="livemin",
)
STORE_UP = Family(
    "banditd_store_up", Kind.GAUGE, "1 when every part reached the store at its last try.", merge="livemin"
)
SNAPSHOT_SAVED = Family(
    "banditd_snapshot_saved_timestamp_seconds",
    Kind.GAUGE,
    "When this machine last wrote the state that it serves to its disk.",
    merge="livemax",
)
SAVE_FAILURES = Family(
    "banditd_snapshot_save_failures_total", Kind.COUNTER, "Writes of that state which the disk refused."
)
SET_BACK = Family(
    "banditd_store_set_back",
    Kind.GAUGE,
    "1 while a server does not believe the store, because it was emptied, set back or exchanged.",
    merge="livemax",
)
LEASE_EXPIRED = Family(
    "banditd_exposure_lease_expired",
    Kind.GAUGE,
    "1 while challengers get no traffic here, because the store was not reached for too long.",
    merge="livemax",
)
STOPPED_ARMS = Family(
    "banditd_local_stops", Kind.GAUGE, "Arms that operators stopped at this machine itself.", merge="livemax"
)

# Learning
FOLDS = Family("banditd_folds_total", Kind.COUNTER, "Folds that the store has taken.")
FOLDED_ENTRIES = Family("banditd_folded_entries_total", Kind.COUNTER, "Log entries in those folds.")
FOLDED_REWARDS = Family("banditd_folded_rewards_total", Kind.COUNTER, "Rewards in those folds.")
FOLDED_EXPOSURES = Family("banditd_folded_exposures_total", Kind.COUNTER, "Exposures in those folds.")
FOLD_SECONDS = Family(
    "banditd_fold_seconds", Kind.HISTOGRAM, "Time of a fold, with its write.", bounds=_STEADY
)
LAG = Family(
    "banditd_learner_lag_entries", Kind.GAUGE, "Log entries not folded yet at the last look.", ("experiment",)
)
ALLOCATIONS = Family(
    "banditd_allocations_total", Kind.COUNTER, "Allocations that the learner published, by why.", ("action",)
)
ROLLBACKS = Family("banditd_rollbacks_total", Kind.COUNTER, "Arms that the learner rolled back.")
VERDICTS = Family(
    "banditd_verdicts",
    Kind.GAUGE,
    "Guardrail verdicts of the last look, by outcome.",
    ("experiment", "outcome"),
)
EVALUATED = Family(
    "banditd_evaluation_timestamp_seconds", Kind.GAUGE, "When the learner last looked.", ("experiment",)
)
SET_BACKS = Family(
    "banditd_store_set_backs_total",
    Kind.COUNTER,
    "Times that the store lacked commits, folds or unread entries of an experiment, by what was done.",
    ("action",),
)
LEASES = Family(
    "banditd_leases_held", Kind.GAUGE, "Experiments that this machine's learner writes.", merge="livesum"
)

# Sources of rewards
SOURCE_EVENTS = Family(
    "banditd_source_events_total",
    Kind.COUNTER,
    "Events of sources as they were read, repeats too, by what became of them.",
    ("source", "outcome", "reason"),
)
SOURCE_UP = Family(
    "banditd_source_up", Kind.GAUGE, "1 when the source and the store answer.", ("source",), "livemin"
)
SOURCE_LAG = Family(
    "banditd_source_lag", Kind.GAUGE, "What waits in the source: events, or bytes of files.", ("source",)
)
SOURCE_SKIPPED = Family(
    "banditd_source_skipped_total", Kind.COUNTER, "Events that were in the log already.", ("source",)
)
SOURCE_LOST = Family(
    "banditd_source_lost_total", Kind.COUNTER, "Events that the source dropped unread.", ("source",)
)
SOURCE_NEWEST = Family(
    "banditd_source_newest_timestamp_seconds",
    Kind.GAUGE,
    "When the source last brought something.",
    ("source",),
    "livemax",
)
SOURCE_ALARM = Family(
    "banditd_source_alarm",
    Kind.GAUGE,
    "1 while something is wrong with a source: silent, unjoined, loses, fails.",
    ("source", "alarm"),
    "livemax",
)

# Supervising
RESTARTS = Family(
    "banditd_part_restarts_total", Kind.COUNTER, "Processes that ended by themselves.", ("part",)
)

# Made when somebody asks
BUILD = Family("banditd_build_info", Kind.GAUGE, "What runs here; always 1.", ("version", "python"))
SNAPSHOT_AGE = Family(
    "banditd_snapshot_age_seconds", Kind.GAUGE, "Age of the oldest state that a server decides from."
)
EVALUATION_AGE = Family(
    "banditd_evaluation_age_seconds", Kind.GAUGE, "Time since the learner last looked.", ("experiment",)
)
AGES = {SNAPSHOT_READ: SNAPSHOT_AGE, EVALUATED: EVALUATION_AGE}

FAMILIES: tuple[Family, ...] = tuple(each for each in list(globals().values()) if isinstance(each, Family))
