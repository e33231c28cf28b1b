"""What one run of banditd was told."""

from server.config.layers import Loaded, Origin, handed_over, load
from server.config.settings import EMBEDDED, OFF, SETTINGS, Config
from server.config.values import host_port, is_loopback, mask

__all__ = [
    "EMBEDDED",
    "OFF",
    "SETTINGS",
    "Config",
    "Loaded",
    "Origin",
    "handed_over",
    "host_port",
    "is_loopback",
    "load",
    "mask",
]
