"""YAML text to plain values that know their line and column; refuses what two YAML readers could read differently.

Reads events and resolves scalars itself, by the rules that YAML 1.1 and 1.2 share: ``1e-6`` is a number, and ``yes``,
``0o17`` or ``1_000`` without quotes are neither text nor number. Takes no alias, anchor, tag or second document, so
the work is linear in the size of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import yaml
from yaml.reader import ReaderError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 16
MAX_NODES = 20_000

type_loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
