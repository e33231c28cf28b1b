"""Rules about floors, caps, ramps and fixed weights: together they must leave some way to divide the traffic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bandit.spec.finding import ANY, Finding, Loc, listed, unknown
from bandit.spec.model import PPM, Allocator, Arm, Bounds, ExperimentSpec, share_ppm


def share_findings(spec: ExperimentSpec) -> Iterator[Finding]:
    """Every broken rule about shares, in the order of the file's sections."""
    yield from _floors(spec)
    yield from _caps(spec)
    yield from _ramps(spec.arms, spec.bounds)
    yield from _weights(spec)


def _floors(spec: ExperimentSpec) -> Iterator[Finding]:
    floors = {arm.name: spec.bounds_ppm(index)[0] for index, arm in enumerate(spec.arms)}
    total = sum(floors.values())
    if total <= PPM or len(floors) < len(spec.arms):
        return
    own = {index: arm.bounds.floor for index, arm in enumerate(spec.arms) if arm.bounds.floor is not None}
    loc: Loc = ("arms",)
    if own:
        loc = ("arms", max(own, key=lambda index: own[index]), "bounds", "floor")
    elif "floor" in spec.bounds.model_fields_set:
        loc = ("bounds", "floor")
    shown = listed(f"{name} {_shown(floor)}" for name, floor in floors.items())
    yield Finding(
        loc,
        f"the floors of all arms add up to {_shown(total)} ({shown}); together they may have at most 1: "
        f"lower them, an even share of {len(floors)} arms is {_shown(PPM // len(floors))}",
        (
            ("arms", ANY, "bounds", "floor"),
            ("arms", ANY, "control"),
            ("bounds", "floor"),
            ("bounds", "control_floor"),
        ),
    )


def _caps(spec: ExperimentSpec) -> Iterator[Finding]:
    bounds = spec.bounds
    if bounds.floor > bounds.cap:
        yield Finding(
            ("bounds", "floor" if "floor" in bounds.model_fields_set else "cap"),
            f"floor {bounds.floor:g} is above cap {bounds.cap:g}; raise the cap or lower the floor",
            (("bounds", "floor"), ("bounds", "cap")),
        )
    for index, arm in enumerate(spec.arms):
        own = arm.bounds
        if arm.control:
            if own.cap not in (None, 1.0):
                yield Finding(
                    ("arms", index, "bounds", "cap"),
                    f"cap {own.cap:g} on the control, which must be able to take all traffic; leave cap out",
                    (("arms", index, "bounds", "cap"), ("arms", ANY, "control")),
                )
            continue
        floor = bounds.floor if own.floor is None else own.floor
        cap = bounds.cap if own.cap is None else own.cap
        if floor > cap and not (own.floor is None and own.cap is None):
            yield Finding(
                ("arms", index, "bounds", "cap" if own.floor is None else "floor"),
                f"floor {floor:g} is above cap {cap:g} of {arm.name}"
                f"{_inherited(own.floor is None, 'floor')}{_inherited(own.cap is None, 'cap')}; "
                "raise the cap or lower the floor",
                (
                    ("arms", index, "bounds"),
                    ("arms", index, "control"),
                    ("bounds", "floor"),
                    ("bounds", "cap"),
                ),
            )


def _ramps(arms: Sequence[Arm], bounds: Bounds) -> Iterator[Finding]:
    never = "lets a share never rise; write the most rise in one minute, or leave it out for no limit"
    if bounds.ramp_per_minute == 0:
        loc: Loc = ("bounds", "ramp_per_minute")
        yield Finding(loc, f"0 {never}", (loc,))
    for index, arm in enumerate(arms):
        loc = ("arms", index, "bounds", "ramp_per_minute")
        own = arm.bounds.ramp_per_minute
        if arm.control and own is not None:
            yield Finding(
                loc,
                f"{own:g} on the control, which takes what challengers give up at once; leave it out",
                (loc, ("arms", ANY, "control")),
            )
        elif own == 0:
            yield Finding(loc, f"0 {never}", (loc,))


def _weights(spec: ExperimentSpec) -> Iterator[Finding]:
    allocator, names = spec.allocator, [arm.name for arm in spec.arms]
    loc: Loc = ("allocator", "weights")
    reads: tuple[Loc, ...] = (("allocator",), ("arms", ANY, "name"))
    if allocator.kind != "fixed":
        if allocator.weights:
            yield Finding(
                loc,
                f"weights with kind {allocator.kind}, which finds its own; leave them out, or write kind: fixed",
                reads,
            )
        return
    for name in allocator.weights:
        if name not in names:
            yield Finding((*loc, name), unknown(name, names, "an arm"), reads)
    missing = [name for name in names if name not in allocator.weights]
    if missing:
        yield Finding(
            loc if allocator.weights else ("allocator",),
            f"no weight for {listed(missing)}; a fixed allocator has one for each arm: add them",
            reads,
        )
    elif len(allocator.weights) == len(names):
        yield from _weight_sizes(spec, allocator, reads)


def _weight_sizes(spec: ExperimentSpec, allocator: Allocator, reads: tuple[Loc, ...]) -> Iterator[Finding]:
    loc: Loc = ("allocator", "weights")
    total = sum(map(share_ppm, allocator.weights.values()))
    # Each weight may be off by half a ppm from rounding: 1/3 three times is 0.999999.
    if abs(total - PPM) > max(1, len(allocator.weights) // 2):
        yield Finding(
            loc,
            f"the weights add up to {_shown(total)}; they must add up to 1: "
            f"{'raise' if total < PPM else 'lower'} them by {_shown(abs(PPM - total))} together",
            reads,
        )
    for index, arm in enumerate(spec.arms):
        floor, cap, _ = spec.bounds_ppm(index)
        weight = share_ppm(allocator.weights[arm.name])
        where = (
            ("arms", index, "bounds"),
            ("arms", ANY, "control"),
            ("bounds",),
        )
        if weight < floor:
            yield Finding(
                (*loc, arm.name),
                f"weight {_shown(weight)} is below the floor {_shown(floor)} of {arm.name}; raise the weight, "
                f"or lower its floor in the bounds",
                (*reads, *where),
            )
        elif weight > cap:
            yield Finding(
                (*loc, arm.name),
                f"weight {_shown(weight)} is above the cap {_shown(cap)} of {arm.name}; lower the weight, "
                "or raise its cap in the bounds",
                (*reads, *where),
            )


def _shown(ppm: int) -> str:
    return f"{ppm / PPM:.6f}".rstrip("0").rstrip(".")


def _inherited(inherited: bool, field: str) -> str:
    return f" (its {field} is that of the experiment's bounds)" if inherited else ""
