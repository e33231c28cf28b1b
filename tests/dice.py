"""Random right specs as plain mappings, by seed: every field and choice, text that YAML readers trip over."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

# Text that some reader of YAML takes for something else when it has no quotes.
TRAPS = (
    *(
        "1e-6",
        "0o7",
        "yes",
        "On",
        "no",
        "y",
        "null",
        "true",
        "~",
        "<<",
        "=",
        "1_0",
        "1:30",
        "7d",
        "2026-11-25",
    ),
    *(
        "a: b",
        "a #b",
        "a:",
        " a",
        "a ",
        "- a",
        "? a",
        "{a}",
        "[a",
        "'",
        '"',
        "\\",
        "%a",
        "@a",
        "`a",
        "!a",
        "&a",
        "*a",
    ),
    *(
        "line\nline",
        "line\n\n  line\n",
        "one\ntwo\n",
        "\n",
        "one\n\n",
        "a\tb",
        "\r\n",
        "\u2028",
        "\ufeff",
        "\x85",
        "\x00",
    ),
)
NAME_TRAPS = ("on", "no", "y", "null", "true", "e1", "n", "off", "yes")


class Dice(random.Random):
    """A seeded source of parts of specs."""

    def coin(self) -> bool:
        return self.random() < 0.5

    def word(self, joint: str) -> str:
        if self.random() < 0.2:
            return self.choice(NAME_TRAPS)
        return self.choice("abxyz") + "".join(self.choices("abz019" + joint, k=self.randrange(8)))

    def words(self, joint: str, least: int, most: int) -> list[str]:
        return list(dict.fromkeys(self.word(joint) for _ in range(self.randint(least + 1, most + 1))))[:most]

    def text(self, least: int = 0) -> str:
        if self.coin():
            return self.choice(TRAPS)
        points = [
            self.randrange(*self.choice(((0, 0x180), (0x20, 0x7F), (0, 0xD800), (0xE000, 0x110000))))
            for _ in range(12)
        ]
        return "".join(map(chr, points[: self.randint(least, 12)]))

    def share(self, most: float = 1.0) -> float:
        return self.choice((0, self.randint(0, int(most * 1_000_000)))) / 1_000_000

    def positive(self, most: float) -> float:
        return self.choice(
            (most, min(1.0, most), self.uniform(0, most) or most, most * 10 ** self.uniform(-12, 0))
        )

    def value(self) -> float:
        return self.choice((0, self.randint(-1000, 1000), self.uniform(-1e12, 1e12), self.gauss(0, 1e-6)))

    def span(self, most_ms: int) -> str:
        return self.choice(
            (
                f"{self.randint(1000, most_ms)}ms",
                f"{self.randint(2, 200)}m",
                f"{self.randint(1, 50) / 4}h",
                "90d",
            )
        )


def arms(dice: Dice) -> list[dict[str, Any]]:
    names = dice.words("-", 3, 6)
    while len(names) < 2:
        names = dice.words("-", 3, 6)
    control = dice.randrange(len(names))
    found = []
    for index, name in enumerate(names):
        arm: dict[str, Any] = {"name": name, "control": index == control}
        if dice.coin():
            arm["digest"] = f"sha256:{index}{''.join(dice.choices('09af:é', k=dice.randrange(6)))}"
        if dice.coin():
            arm["metadata"] = {dice.text(1): dice.text() for _ in range(dice.randrange(4))}
        if dice.coin() and index != control:
            floor = dice.share(0.1)
            arm["bounds"] = {
                "floor": floor,
                "cap": max(floor, dice.share()),
                "ramp_per_minute": dice.share() or 1,
            }
        found.append(arm)
    return found


def beliefs(dice: Dice, slots: list[dict[str, Any]], watched: list[dict[str, Any]]) -> None:
    """Priors of single arms, into ``slots``."""
    for arm in slots:
        for metric in watched:
            low, high = scale(metric)
            mean = 0.5 * low + 0.5 * high
            if dice.random() < 0.1 and low < mean < high:
                arm.setdefault("prior", {})[metric["name"]] = {"mean": mean, "strength": dice.positive(1e6)}


def metrics(dice: Dice) -> list[dict[str, Any]]:
    found = []
    for name in dice.words("_", 1, 4):
        metric: dict[str, Any] = {"name": name, "direction": dice.choice(("maximize", "minimize"))}
        metric |= dice.choice(tuple(KINDS.values()))(dice)
        low, high = scale(metric)
        if dice.coin():
            metric["prior"] = {"mean": dice.uniform(low, high), "strength": dice.positive(1e6)}
            if not low < metric["prior"]["mean"] < high:
                metric.pop("prior")
        if dice.coin():
            metric["attribution_window"] = dice.span(90 * 86_400_000)
        if dice.coin() and metric["kind"] not in ("bernoulli", "rating"):
            metric["aggregate"] = dice.choice(("first", "last", "sum", "max"))
        if dice.coin():
            metric["corrections"] = dice.coin()
        if dice.coin() and metric.get("default_when_silent") is not None:
            metric["pending"] = dice.choice(("wait", "weigh"))
        if dice.coin():
            metric["delay"] = {"median": "1ms", "p90": "99ms", "strength": dice.positive(1e6)}
        if dice.coin():
            metric["plausible_lift"] = min(dice.positive(1e12), high - low)
        found.append(metric)
    parts = [metric["name"] for metric in found if scale(metric)[0] >= 0]
    if len(parts) > 1 and "per" not in parts and dice.coin():
        above, below = dice.sample(parts, 2)
        of = {"numerator": above, "denominator": below}
        found.append({"name": "per", "kind": "ratio", "direction": "maximize", "range": [0, 5], **of})
    return found


def scale(metric: dict[str, Any]) -> tuple[float, float]:
    """Least and most that a metric's mean can be."""
    worth = metric.get("scores") or metric.get("levels") or metric.get("range", (0.0, 1.0))
    return min(worth), metric.get("winsorize") or max(worth)


def real(dice: Dice) -> dict[str, Any]:
    low, high = sorted((dice.value(), dice.value() + 1e-9))
    return {"range": [low, high], "default_when_silent": dice.choice((None, low, high))}


def positive(dice: Dice) -> dict[str, Any]:
    high = dice.uniform(1e-3, 1e6)
    cut = {"winsorize": dice.uniform(0.5, 1.0) * high} if dice.coin() else {}
    return {"range": [0, high], "default_when_silent": dice.choice((None, 0)), **cut}


def rating(dice: Dice) -> dict[str, Any]:
    levels = sorted(dice.sample(range(-20, 20), dice.randint(2, 16)))
    scores = {"scores": [levels[-1], *levels[1:-1], levels[0]]} if dice.coin() else {}
    return {"levels": levels, "default_when_silent": dice.choice((None, *levels)), **scores}


KINDS: dict[str, Callable[[Dice], dict[str, Any]]] = {
    "bernoulli": lambda dice: {"kind": "bernoulli", "default_when_silent": dice.choice((None, 0, 1))},
    "fraction": lambda dice: {"kind": "fraction"} | real(dice),
    "gaussian": lambda dice: {"kind": "gaussian"} | real(dice),
    "poisson": lambda dice: {"kind": "poisson", "range": [0, 40], "winsorize": dice.choice((None, 20))},
    "exponential": lambda dice: {"kind": "exponential"} | positive(dice),
    "lognormal": lambda dice: {"kind": "lognormal"} | positive(dice) | {"default_when_silent": None},
    "revenue": lambda dice: {"kind": "revenue"} | positive(dice),
    "rating": lambda dice: {"kind": "rating"} | rating(dice),
}


def guardrails(dice: Dice, watched: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for index, name in enumerate(dice.words("-", 0, 4)):
        # Different margins and limits, so that no two check the same.
        odd = (index + dice.uniform(0.1, 0.9)) / 5
        guardrail = {"name": name, "priority": dice.positive(1000)} | watch(dice, dice.choice(watched), odd)
        if dice.coin():
            guardrail["action"] = dice.choice(("hold", "flag"))
        # Two of a kind without numbers of their own would check the same.
        key = guardrail["kind"], guardrail.get("metric"), guardrail.get("margin"), guardrail.get("limit")
        if all(
            key != (each["kind"], each.get("metric"), each.get("margin"), each.get("limit")) for each in found
        ):
            found.append(guardrail)
    return found


def watch(dice: Dice, metric: dict[str, Any], odd: float) -> dict[str, Any]:
    """A guardrail of this metric; ``odd`` in (0, 1) makes it its own."""
    known: dict[str, dict[str, Any]] = {
        "harm": {"margin": 1 + odd, "method": dice.choice(("exact", "asymptotic"))},
        "became_worse": {"margin": 1 + odd, "run_length": dice.uniform(100, 1e9)},
        "response_rate": {"margin": 1 + odd, "action": "flag"},
        "drift": {"action": "hold"},
        "silence": {"after": "100ms", "action": "flag"},
    }
    kind, (low, high) = metric["kind"], metric.get("range", (0.0, 1.0))
    high = metric.get("winsorize") or high
    if kind == "bernoulli":
        known |= {"rate_limit": {"limit": odd}, "breaker": {"limit": odd, "tail": dice.positive(0.001)}}
    elif kind not in ("rating", "ratio") and low < low + odd * (high - low) < high:
        known["quantile_limit"] = {"limit": low + odd * (high - low), "quantile": dice.uniform(0.01, 0.99)}
    if kind == "poisson":
        known["event_rate"] = {"limit": odd}
    if kind in ("poisson", "exponential", "revenue") and metric["direction"] == "minimize":
        inside = {
            "between": [high / 40, high / 10],
            "margin": 1.2 + odd,
            "quantile": dice.uniform(0.01, 0.99),
        }
        known["quantile_harm"] = inside
    if low >= 0 and kind not in ("rating", "ratio"):
        known["harm"]["margin_of"] = dice.choice(("badness", "mean"))
    if kind == "ratio":
        return {"kind": "sample_ratio", "action": "flag"}
    chosen = dice.choice(tuple(known))
    return {"kind": chosen, "metric": metric["name"], **known[chosen]}


def fixed_weights(dice: Dice, slots: list[dict[str, Any]]) -> dict[str, float]:
    cuts = sorted(dice.randint(0, 1_000_000) for _ in slots[1:])
    sizes = [high - low for low, high in zip([0, *cuts], [*cuts, 1_000_000], strict=True)]
    return {arm["name"]: size / 1_000_000 for arm, size in zip(slots, sizes, strict=True)}


def bound(dice: Dice, metric: dict[str, Any]) -> dict[str, float]:
    """A limit, or a distance from the best."""
    low, high = scale(metric)
    if dice.coin() and high - low <= 1e12:
        return {"within": 0.5 * (high - low)}
    return {"limit": low + 0.5 * (high - low)}


def linear(dice: Dice, spec: dict[str, Any]) -> None:
    """Make a right spec one of a linear allocator, where its metrics allow that."""
    fit = [each for each in spec["metrics"] if each["kind"] != "ratio" and "scores" not in each]
    fit = [each for each in fit if each.get("default_when_silent") is None]
    if not fit:
        return
    for section in ("constraints", "budget", "rewards_without_token"):
        spec.pop(section, None)
    for arm in spec["arms"]:
        arm.pop("prior", None)
    kept = ("rate_limit", "breaker", "quantile_limit", "event_rate", "silence")
    compared = ("harm", "response_rate")
    weighed = {each["name"] for each in fit} if len(spec["arms"]) <= 28 else set()
    refused = {"method": "asymptotic", "cohorts": "each"}

    def fits(each: dict[str, Any]) -> bool:
        odd = any(each.get(name) == value for name, value in refused.items())
        return each["kind"] in kept or (each["kind"] in compared and each["metric"] in weighed and not odd)

    spec["guardrails"] = list(filter(fits, spec["guardrails"]))
    spec["objective"] = [{"metric": dice.choice(fit)["name"]}]
    spec["baseline"] = "stationary"
    rule: dict[str, Any] = {"kind": dice.choice(("lin_ts", "lin_ucb"))}
    if dice.coin():
        rule["exploration"] = dice.uniform(0.1, 5)
    elif rule["kind"] == "lin_ucb" and "decay" not in spec:
        rule["confidence"] = dice.uniform(0.01, 0.5)
    spec["allocator"] = rule | {"ridge": dice.uniform(0.01, 100)}
    low = dice.uniform(-1e6, 1e6)
    kinds: tuple[dict[str, Any], ...] = (
        {"kind": "numeric", "low": low, "high": low + dice.uniform(1, 1e6)},
        {"kind": "categorical", "values": dice.words("-", 1, 4)},
        {"kind": "hashed", "buckets": dice.randint(2, 6)},
    )
    names = dict.fromkeys(dice.text(1) for _ in range(3))
    spec["features"] = [{"name": name, **dice.choice(kinds)} for name in names]


def mapping_of(seed: int) -> dict[str, Any]:
    """A right spec as a plain mapping."""
    dice = Dice(seed)
    slots, watched = arms(dice), metrics(dice)
    beliefs(dice, slots, watched)
    terms = dice.sample(watched, dice.randint(1, len(watched)))
    spec: dict[str, Any] = {
        "experiment": dice.word("-"),
        "arms": slots,
        "metrics": watched,
        "objective": [
            {"metric": metric["name"], "weight": 0 if at and dice.random() < 0.1 else dice.positive(1e6)}
            for at, metric in enumerate(terms)
        ],
        "guardrails": guardrails(dice, watched),
        "bounds": {"floor": 0, "control_floor": dice.share(0.1), "ramp_per_minute": dice.share() or 0.5},
    }
    values = list(dict.fromkeys(text for _ in range(5) if (text := dice.text(1)) != "other"))
    optional: dict[str, Any] = {
        "hypothesis": dice.text(),
        "unit": dice.choice(
            (
                {
                    "kind": dice.choice(("request", "session", "user", "tenant")),
                    "mode": dice.choice(("sticky", "epoch", "request")),
                },
                {"kind": dice.choice(("user", "tenant")), "mode": "session"},
            )
        ),
        "alpha": dice.positive(0.5),
        "decay": {"half_life": dice.span(10**11)},
        "cohorts": {"attribute": dice.text(1), "values": values},
        "rewards_without_token": dice.coin(),
        **dice.choice(
            (
                *({"event_retention": each} for each in ("0s", "1m", "36h", "90d")),
                {"partitions": 2},
                {"partitions": 16},
            )
        ),
        "allocator": dice.choice(
            (
                {"kind": "kl_ucb"},
                {"kind": "thompson"},
                {"kind": "fixed"},
                {"kind": "top_two", "beta": 0.25},
                {"kind": "epsilon_greedy", "epsilon": 0.5},
            )
        ),
        "constraints": [
            {"metric": metric["name"], "probability": 0.5 + dice.uniform(0, 0.4), **bound(dice, metric)}
            for metric in dice.sample(watched, dice.randint(1, len(watched)))
        ],
        "baseline": dice.choice(("contrast", "stratified", "stationary")),
    }
    if spent := [each for each in watched if each["direction"] == "minimize" and scale(each)[0] >= 0]:
        optional["budget"] = {"metric": dice.choice(spent)["name"], "per_day": dice.positive(1e6)}
    spec |= {key: value for key, value in optional.items() if dice.coin()}
    if spec.get("allocator") == {"kind": "fixed"}:
        for arm in slots:
            arm.pop("bounds", None)
        spec["bounds"]["control_floor"] = 0
        spec["allocator"] = {"kind": "fixed", "weights": fixed_weights(dice, slots)}
        spec.pop("budget", None)
    elif dice.random() < 0.15:
        linear(dice, spec)
    if may_part(spec) and dice.coin():
        spec["cohorts"]["apart"] = {
            "probability": 0.5 + dice.positive(0.49),
            "min_decisions": dice.randint(1, 10**9),
        }
    return spec


def may_part(spec: Mapping[str, Any]) -> bool:
    """Whether cohorts of this spec may have shares of their own."""
    kind = spec.get("allocator", {}).get("kind")
    plain = kind != "fixed" and not str(kind).startswith("lin_") and "budget" not in spec
    values = spec.get("cohorts", {}).get("values", ())
    return plain and len(values) >= 3 and spec.get("baseline", "contrast") == "contrast"


def shuffled(value: Any, dice: random.Random) -> Any:
    """The same values with the keys of every mapping in another order."""
    if isinstance(value, dict):
        keys = list(value)
        dice.shuffle(keys)
        return {key: shuffled(value[key], dice) for key in keys}
    return [shuffled(item, dice) for item in value] if isinstance(value, list) else value
