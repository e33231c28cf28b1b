"""The decision and reward services of the double: real tables, tokens and reward checks, counts in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bandit import errors
from bandit.log import CORRECT, REPORT
from bandit.reward import Amendment, RewardEvent, RewardRecord, accept_with_token, accept_without_token
from bandit.token import TOKEN_BYTES, Claims, KeyRing, sign, verify
from bandit.v1 import decision_service_pb2 as dpb
from bandit.v1 import decision_service_pb2_grpc as dgrpc
from bandit.v1 import reward_service_pb2 as rpb
from bandit.v1 import reward_service_pb2_grpc as rgrpc
from tests.double.ground import Ground, Held, now_ms

RING = KeyRing({1: bytes(range(32))}, 1)


class Decisions(dgrpc.DecisionServiceServicer):
    """DecisionService over a Ground."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self._number = 0

    def Decide(self, request: Any, context: Any) -> Any:  # noqa: N802
        def work() -> dpb.DecideResponse:
            held = self.ground.find(request.experiment)
            arm, ppm, claims = self._decide(held, request.unit, dict(request.attributes))
            return dpb.DecideResponse(
                arm=held.experiment.spec.arms[arm].name,
                propensity=ppm / 1e6,
                reason=dpb.DecisionReason.Value(f"DECISION_REASON_{held.table.reason.upper()}"),
                epoch=held.experiment.epoch,
                allocation_number=held.allocation.number,
                decision_id=str(claims.decision_id),
                token=sign(RING, claims),
                mode=dpb.SERVING_MODE_FRESH,
                counted=True,
            )

        return self.ground.serve("Decide", request, context, work)

    def DecideBatch(self, request: Any, context: Any) -> Any:  # noqa: N802
        def work() -> dpb.DecideBatchResponse:
            held = self.ground.find(request.experiment)
            made = [self._decide(held, unit, dict(request.attributes)) for unit in request.units]
            return dpb.DecideBatchResponse(
                arms=[arm.name for arm in held.experiment.spec.arms],
                arm_indexes=bytes(arm for arm, _, _ in made),
                propensities_ppm=[ppm for _, ppm, _ in made],
                tokens=b"".join(sign(RING, claims) for _, _, claims in made),
                token_size=TOKEN_BYTES,
                reason=dpb.DecisionReason.Value(f"DECISION_REASON_{held.table.reason.upper()}"),
                epoch=held.experiment.epoch,
                allocation_number=held.allocation.number,
                mode=dpb.SERVING_MODE_FRESH,
                counted=True,
            )

        return self.ground.serve("DecideBatch", request, context, work)

    def DecideStream(self, request_iterator: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        for each in request_iterator:
            yield dpb.DecideStreamResponse(response=self.Decide(each.request, context))

    def _decide(self, held: Held, unit: str, attributes: dict[str, str]) -> tuple[int, int, Claims]:
        decision = held.table.decide(unit, attributes)
        self._number += 1
        held.exposures[decision.arm] += 1
        claims = Claims(
            held.experiment.uid,
            held.experiment.epoch,
            held.allocation.number,
            1,
            self._number,
            now_ms(),
            decision.unit_hash,
            decision.propensity_ppm,
            decision.cohort,
            decision.arm,
        )
        return decision.arm, decision.propensity_ppm, claims


class Rewards(rgrpc.RewardServiceServicer):
    """RewardService over a Ground."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground

    def ReportRewards(self, request: Any, context: Any) -> Any:  # noqa: N802
        def work() -> rpb.ReportRewardsResponse:
            results = [self._reward(each, request.wait) for each in request.events]
            refused = (rpb.REWARD_OUTCOME_REJECTED, rpb.REWARD_OUTCOME_LATE)
            safe = min(request.durability or rpb.DURABILITY_MEMORY, self.ground.safest)
            if all(each.outcome in refused for each in results):
                safe = rpb.DURABILITY_UNSPECIFIED
            return rpb.ReportRewardsResponse(results=results, durability=safe)

        return self.ground.serve("Rewards", request, context, work)

    def ReportRewardStream(self, request_iterator: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        for each in request_iterator:
            yield rpb.ReportRewardStreamResponse(response=self.ReportRewards(each.request, context))

    def _reward(self, sent: rpb.RewardEvent, wait: bool) -> rpb.RewardResult:
        event = RewardEvent(
            sent.metric,
            sent.value if sent.HasField("value") else None,
            event_id=sent.event_id,
            arm=sent.arm,
            unit=sent.unit,
            operation=sent.operation or REPORT,
            sequence=sent.sequence if sent.HasField("sequence") else None,
            event_ms=sent.event_time.ToMilliseconds() if sent.HasField("event_time") else None,
        )
        try:
            held, record = self._accept(sent, event)
        except (errors.Rejected, errors.NotFound) as error:
            late = error.reason == "LATE"
            outcome = rpb.REWARD_OUTCOME_LATE if late else rpb.REWARD_OUTCOME_REJECTED
            return rpb.RewardResult(outcome=outcome, reason=error.reason, message=str(error))
        amendment = record if isinstance(record, Amendment) else None
        record = record.reward if isinstance(record, Amendment) else record
        key = (record.issuer, record.number, record.metric)
        if amendment is not None and amendment.op != REPORT:
            held.rewards.pop(key, None)
            if amendment.op == CORRECT:
                held.rewards[key] = record.q
            held.ends["applied"] += 1
            return rpb.RewardResult(
                outcome=rpb.REWARD_OUTCOME_APPLIED if wait else rpb.REWARD_OUTCOME_ACCEPTED
            )
        first = held.rewards.setdefault(key, record.q)
        end = "conflict" if first != record.q else "duplicate" if held.ends[repr(key)] else "applied"
        held.ends[repr(key)] += 1
        held.ends[end] += 1
        name = end if wait else "accepted"
        return rpb.RewardResult(outcome=rpb.RewardOutcome.Value(f"REWARD_OUTCOME_{name.upper()}"))

    def _accept(self, sent: rpb.RewardEvent, event: RewardEvent) -> tuple[Held, RewardRecord | Amendment]:
        if not sent.token:
            held = self.ground.find(sent.experiment)
            return held, accept_without_token(held.experiment, bytes(32), event, now_ms())
        claims = verify(RING, sent.token)
        for held in self.ground.held.values():
            if held.experiment.uid == claims.experiment_uid:
                return held, accept_with_token(held.experiment, claims, event, now_ms())
        raise errors.Rejected("the experiment of this token is gone", reason="UNKNOWN_EXPERIMENT")
