"""Most events a second of one client: one that floods waits, nobody else does."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.errors import Overloaded
from bandit.v1.decision_service_pb2 import DecideRequest
from bandit.v1.reward_service_pb2 import ReportRewardsRequest, RewardEvent
from server.rates import BURST_S, MOST_CLIENTS, Rates, client_of
from server.store.memory import MemoryStore
from tests.fakes import FakeClock
from tests.serving import code_of, details_of, put_running, serving

steps = st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 50), st.floats(0, 3)), max_size=60)


@given(st.integers(1, 40), steps)
def test_nobody_gets_more_than_the_rate_and_who_waits_as_told_is_taken(
    per_s: int, sent: list[tuple[str, int, float]]
) -> None:
    """Of any client, in any span that begins paid up: at most rate x (span + burst), and one batch more."""
    clock = FakeClock()
    rates = Rates(per_s, clock.monotonic_s)
    began = clock.monotonic_s()
    taken = {"a": 0, "b": 0}
    for client, events, pause_s in sent:
        clock.advance(pause_s)
        try:
            rates.take(client, events)
        except Overloaded as error:
            wait_s = float(error.metadata["retry_delay_s"])
            assert 0 <= wait_s <= 50 / per_s
            clock.advance(wait_s + 0.001)
            rates.take(client, events)
        taken[client] += events
        spanned_s = clock.monotonic_s() - began
        assert taken[client] <= per_s * (spanned_s + BURST_S) + events + 1e-6


@given(st.integers(1, 40), st.lists(st.integers(1, 1000), max_size=60))
def test_who_keeps_to_the_rate_is_never_refused(per_s: int, batches: list[int]) -> None:
    clock = FakeClock()
    rates = Rates(per_s, clock.monotonic_s)
    for events in batches:
        rates.take("a", events)
        clock.advance(events / per_s)


def test_one_that_floods_costs_the_others_nothing() -> None:
    clock = FakeClock()
    rates = Rates(10, clock.monotonic_s)
    rates.take("a", 1000)
    for _ in range(100):
        with pytest.raises(Overloaded, match="a sent more than 10 events a second"):
            rates.take("a", 1)
        rates.take("b", 1)
        clock.advance(0.1)
    rates.take("b", 1)
    clock.advance(89.0)  # 100 s of its 10 a second are over, less the burst
    rates.take("a", 1)


def test_no_limit_remembers_nobody() -> None:
    rates = Rates(0, FakeClock().monotonic_s)
    for client in range(10):
        rates.take(str(client), 1_000_000)
    assert not rates._paid_until


def test_ever_new_clients_take_a_bounded_room_and_pardon_only_who_owes_least() -> None:
    clock = FakeClock()
    rates = Rates(1, clock.monotonic_s)
    rates.take("flood", 1000)
    for client in range(3 * MOST_CLIENTS):
        rates.take(str(client), 2)
    assert len(rates._paid_until) <= MOST_CLIENTS
    with pytest.raises(Overloaded):
        rates.take("flood", 1)
    clock.advance(500)
    rates.take("late", 2)
    rates.take("later", 2)
    assert set(rates._paid_until) == {"flood", "late", "later"}, (
        "who owes nothing is forgotten when room is needed"
    )


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        ("ipv4:10.0.0.7:4711", "10.0.0.7"),
        ("ipv6:%5B2001:db8::1%5D:4711", "2001:db8::1"),
        ("ipv6:[::1]:4711", "::1"),
        ("unix:", "unix"),
        ("unix:/run/socket", "unix"),
        ("", "unknown"),
    ],
)
def test_a_client_is_an_address_whatever_its_port(peer: str, client: str) -> None:
    assert client_of(peer) == client


def test_over_grpc_rewards_wait_and_decisions_do_not() -> None:
    store = MemoryStore()
    store.beat("learner", 1_000_000)
    put_running(store)
    rates = Rates(1, FakeClock().monotonic_s)
    with serving(store, rates=rates) as served:
        batch = ReportRewardsRequest(events=[RewardEvent(token=b"no", metric="m", value=1)] * 3)
        assert code_of(lambda: served.reward.ReportRewards(batch)) is grpc.StatusCode.OK
        with pytest.raises(grpc.RpcError) as caught:
            served.reward.ReportRewards(batch)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert details_of(caught.value)["RetryInfo"].retry_delay.ToMilliseconds() == 2000
        decide = DecideRequest(experiment="experiments/answers", unit="u1")
        assert code_of(lambda: served.decide.Decide(decide)) is grpc.StatusCode.OK
