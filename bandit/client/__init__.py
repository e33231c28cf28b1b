"""Speaks to banditd over gRPC; it decides nothing and keeps no state but its connection."""

from bandit.client.connection import Client
from bandit.client.errors import ServerUnavailable, UnexpectedAnswer

__all__ = ["Client", "ServerUnavailable", "UnexpectedAnswer"]
