"""The report of an experiment: what its learner published, when it is of the present epoch; it computes nothing."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from bandit.errors import NotAllowed
from bandit.v1 import report_pb2
from server.rpc.changes import missing
from server.store.base import ControlStore


def read_report(store: ControlStore, name: str) -> report_pb2.Report:
    """The last report. Raises NotFound, NotAllowed while there is none, CorruptStored, StoreUnavailable."""
    stored = store.load(name)
    if stored is None:
        raise missing(name)
    published = store.report(name)
    if published is not None:
        try:
            report = report_pb2.Report.FromString(published)
        except DecodeError:
            report = report_pb2.Report()
        if report.epoch == stored.experiment.epoch:
            report.hypothesis = stored.experiment.spec.hypothesis
            return report
    raise NotAllowed(
        f"{name} has no report of epoch {stored.experiment.epoch} yet; the learner makes one within seconds: "
        "ask again, or see in its status whether a learner is alive",
        reason="NO_REPORT_YET",
    )
