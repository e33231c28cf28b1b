"""Values as text for a terminal; nothing that came from elsewhere can move its cursor or change its colours."""

from __future__ import annotations

import base64
import binascii
import math
from datetime import UTC, datetime
from typing import Any

from bandit.errors import InvalidArgument

PPM = 1_000_000


def plain(text: str) -> str:
    """One line of printable characters; others appear as escapes, line ends as spaces."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else " " if each in "\n\r\t" else f"\\x{ord(each):02x}" for each in text
    )


def percent(ppm: int) -> str:
    """A share for people: ``0 %``, ``48.00 %``, ``100 %``; 0 and 100 are exact, never rounded."""
    if ppm in (0, PPM):
        return f"{ppm // 10_000} %"
    digits = 4 if ppm < 100 or PPM - 100 < ppm < PPM else 2
    return f"{ppm / 10_000:.{digits}f} %"


def number(value: float) -> str:
    """A measured number with four significant digits."""
    if not math.isfinite(value):
        return {math.inf: "inf", -math.inf: "-inf"}.get(value, "not a number")
    if value and (abs(value) >= 1e7 or abs(value) < 1e-4):
        return f"{value:.3e}"
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def count(value: int, one: str, many: str = "") -> str:
    """``1 arm``, ``1,234 arms``."""
    return f"{value:,} {one if value == 1 else many or one + 's'}"


def age(seconds: float) -> str:
    """How long ago: ``2 s ago``, ``3 min ago``; a time ahead of our clock is said to be."""
    if seconds < -2:
        return f"{span(-seconds)} ahead of this machine's clock"
    return f"{span(max(seconds, 0.0))} ago"


def span(seconds: float) -> str:
    """A length of time in its largest fitting unit."""
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def moment(stamp: Any) -> str:
    """A proto Timestamp as UTC; ``never`` when it is unset."""
    if not stamp.seconds:
        return "never"
    return datetime.fromtimestamp(stamp.seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def token_text(token: bytes) -> str:
    """A token as base64url without padding."""
    return base64.urlsafe_b64encode(token).rstrip(b"=").decode()


def token_bytes(text: str) -> bytes:
    """Inverse of ``token_text``; padding and the other base64 alphabet are taken too. Raises InvalidArgument."""
    cleaned = text.strip().rstrip("=").replace("+", "-").replace("/", "_")
    try:
        return base64.b64decode(cleaned + "=" * (-len(cleaned) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise InvalidArgument.at(
            "--token", f"{plain(text)!r} is not base64url; give the token as `banditctl decide` printed it"
        ) from None


def signed(value: float) -> str:
    """A difference: with its sign, also above 0."""
    shown = number(value)
    return f"+{shown}" if value > 0.0 else shown
