"""What the double of banditd holds, how it breaks on request, and how it says errors on the wire."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from bandit import errors
from bandit.decide import Table, compile_table
from bandit.ids import parse_arm, parse_experiment
from bandit.rollout import transitions
from bandit.rollout.audit import AuditRecord
from bandit.rollout.state import Allocation, Experiment
from bandit.rollout.transitions import Transition
from bandit.v1 import experiment_pb2 as pb
from bandit.v1 import report_pb2, reward_service_pb2

CODES: tuple[tuple[type[errors.BanditError], grpc.StatusCode], ...] = (
    (errors.InvalidArgument, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.NotFound, grpc.StatusCode.NOT_FOUND),
    (errors.AlreadyExists, grpc.StatusCode.ALREADY_EXISTS),
    (errors.Stale, grpc.StatusCode.ABORTED),
    (errors.NotAllowed, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.StoreUnavailable, grpc.StatusCode.UNAVAILABLE),
    (errors.Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.CorruptStored, grpc.StatusCode.DATA_LOSS),
)


@dataclass
class Held:
    """One experiment with what only the server knows of it."""

    experiment: Experiment
    allocation: Allocation
    records: list[AuditRecord]
    exposures: Counter[int] = field(default_factory=Counter)
    rewards: dict[tuple[object, ...], int] = field(default_factory=dict)
    ends: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)
    verdicts: list[pb.Verdict] = field(default_factory=list)
    report: report_pb2.Report | None = None

    @property
    def table(self) -> Table:
        return compile_table(self.experiment, self.allocation)


class Ground:
    """State and the way each call goes.

    ``fail`` and ``after`` let a test break a call, or act behind its back; ``breaks`` ends a watch after it showed
    that allocation; ``stuck_ppm`` is a share that rolled back arms do not lose; ``safest`` how safe rewards can get.
    """

    def __init__(self) -> None:
        self.held: dict[str, Held] = {}
        self.calls: list[tuple[str, Message]] = []
        self.failures: defaultdict[str, list[errors.BanditError | grpc.StatusCode | str]] = defaultdict(list)
        self.after: dict[str, Callable[[], None]] = {}
        self.breaks: dict[int, grpc.StatusCode] = {}
        self.stuck_ppm = 0
        self.safest: reward_service_pb2.Durability.ValueType = reward_service_pb2.DURABILITY_MEMORY
        self.replies: dict[str, Message] = {}
        self.changed = threading.Condition(threading.RLock())
        self.open = True

    def fail(self, call: str, *failures: errors.BanditError | grpc.StatusCode | str) -> None:
        """The next calls end so: an error of ours with its details, a bare code, "silent" (no answer), or "lost".

        Lost: the call has its effect, and the answer does not arrive.
        """
        self.failures[call] += failures

    def seen(self, call: str) -> list[Any]:
        """Requests of a call, in order."""
        return [request for name, request in self.calls if name == call]

    def close(self) -> None:
        with self.changed:
            self.open = False
            self.changed.notify_all()

    def reallocate(self, name: str, shares_ppm: tuple[int, ...], cause: str = "evidence") -> None:
        """What the learner does."""
        with self.changed:
            held = self.held[name]
            self.put(
                held,
                transitions.reallocate(
                    held.experiment, held.allocation, shares_ppm, held.allocation.centres, cause, now_ms()
                ),
                None,
            )

    def touch(self, name: str, actor: str = "somebody") -> None:
        """Somebody else changes the experiment: its etag moves on."""
        with self.changed:
            held = self.held[name]
            held.experiment = replace(held.experiment, revision=held.experiment.revision + 1)
            self.changed.notify_all()

    def put(self, held: Held, moved: Transition, actor: str | None) -> None:
        before = (held.experiment, held.allocation)
        held.experiment, held.allocation = moved.experiment, moved.allocation
        if actor is not None:
            last = held.records[-1]
            held.records.append(
                transitions.audit_record(
                    before,
                    moved,
                    actor=actor,
                    sequence=last.sequence,
                    previous_hash=last.hash,
                    now_ms=now_ms(),
                )
            )
        self.changed.notify_all()

    def find(self, resource: str) -> Held:
        return self.named(parse_experiment(resource))

    def named(self, name: str) -> Held:
        if name not in self.held:
            raise errors.NotFound(f"no experiment {name!r}; create it first", experiment=name)
        return self.held[name]

    def serve(
        self, call: str, request: Message, context: grpc.ServicerContext, work: Callable[[], Any]
    ) -> Any:
        with self.changed:
            self.calls.append((call, request))
            failure = self.failures[call].pop(0) if self.failures[call] else None
        while failure == "silent" and context.is_active():
            time.sleep(0.02)
        if isinstance(failure, grpc.StatusCode):
            context.abort(failure, f"made to fail with {failure.name}")
        if isinstance(failure, errors.BanditError):
            abort(context, failure)
        with self.changed:
            key = getattr(request, "request_id", "")
            reply = self.replies.get(key)
            try:
                reply = work() if reply is None else reply
            except errors.BanditError as error:
                abort(context, error)
            if key:
                self.replies[key] = reply
        if failure == "lost":
            context.abort(grpc.StatusCode.UNAVAILABLE, "the answer was lost")
        if act := self.after.pop(call, None):
            act()
        return reply


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def arm_of(held: Held, resource: str) -> int:
    experiment, name = parse_arm(resource)
    index = held.experiment.spec.arm_index(name)
    if index is None:
        names = ", ".join(arm.name for arm in held.experiment.spec.arms)
        raise errors.NotFound(f"{experiment} has no arm {name!r}; its arms are {names}")
    return index


def fresh(held: Held, etag: str) -> None:
    if etag and etag != held.experiment.etag:
        raise errors.Stale(
            f"{held.experiment.name} has etag {held.experiment.etag}, not {etag}: it was changed; read it again"
        )


def abort(context: grpc.ServicerContext, error: errors.BanditError) -> NoReturn:
    """As the real server: code and text, and the details of google.rpc in the trailing metadata."""
    code = next(code for kind, code in CODES if isinstance(error, kind))
    told: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain="banditd", metadata=error.metadata)
    ]
    if isinstance(error, errors.InvalidArgument):
        told.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
                    for field, description in error.violations
                ]
            )
        )
    if isinstance(error, errors.StoreUnavailable | errors.Overloaded):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(1500)
        told.append(retry)
    status = status_pb2.Status(code=code.value[0], message=str(error))
    for each in told:
        packed = any_pb2.Any()
        packed.Pack(each)
        status.details.append(packed)
    context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError
