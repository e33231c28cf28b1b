"""Which calls are sent again, and how the channel behaves; the numbers of the connection, without the connection."""

from __future__ import annotations

import json

# Every call here may be repeated: reads change nothing, rewards and writes carry their own dedup (token or event id,
# request_id), and a repeated Decide gives the same arm and at worst one exposure more.
_CALLS = {
    "bandit.v1.DecisionService": ("Decide", "DecideBatch"),
    "bandit.v1.RewardService": ("ReportRewards",),
    "bandit.v1.ExperimentService": (
        "CreateExperiment",
        "GetExperiment",
        "ListExperiments",
        "UpdateExperiment",
        "DeleteExperiment",
        "StartExperiment",
        "PauseExperiment",
        "ResumeExperiment",
        "RollBackArm",
        "ClearRollback",
        "PromoteArm",
        "GetStatus",
        "ListAuditRecords",
        "DryRun",
    ),
    "bandit.v1.IngestService": ("ListSources", "ListDeadLetters", "ReplayDeadLetters"),
    "bandit.v1.ServerService": ("GetServer", "StopArm", "AcceptStore"),
}
# 4 tries within 0.05 + 0.15 + 0.45 s at most: long enough for a restart behind a port, short enough for a person.
_POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.05s",
    "maxBackoff": "1s",
    "backoffMultiplier": 3,
    # A server that stops ends calls that it has not begun yet as CANCELLED; a call that its caller cancels stays so.
    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
}
# A batch of 10000 decisions with tokens is 1 MB, a page of 1000 large specs some tens.
_LARGEST_REPLY_BYTES = 128 * 1024 * 1024


def service_config() -> str:
    """gRPC's service config (JSON): one retry policy for the calls that may be repeated; no streams."""
    names = [{"service": service, "method": call} for service, calls in _CALLS.items() for call in calls]
    return json.dumps({"methodConfig": [{"name": names, "retryPolicy": _POLICY}]})


def channel_options() -> list[tuple[str, str | int]]:
    """Options of ``grpc.insecure_channel`` and ``grpc.secure_channel``."""
    return [
        ("grpc.service_config", service_config()),
        ("grpc.enable_retries", 1),
        # Never ask the name service for another policy, nor a proxy: the service is in the house.
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.enable_http_proxy", 0),
        # Without these a server that restarted is looked for again only after up to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1000),
        ("grpc.max_reconnect_backoff_ms", 2000),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", _LARGEST_REPLY_BYTES),
    ]
