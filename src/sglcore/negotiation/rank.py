"""Which of several fitting candidates goes first, and why the others do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sglcore.errors import PluginError
from sglcore.negotiation.constraints import Unmet

CORE = "sglcore"


@dataclass(frozen=True)
class Offer:
    """One registered name. spec: its Spec; None where it cannot be imported, for the reason `broken`."""

    name: str
    spec: Any = None
    distribution: str = ""
    version: str = ""
    broken: str = ""

    @property
    def standing(self) -> tuple[bool, int, bool]:
        """What goes first among equals of precedence: no fallback, the higher priority, the built-in."""
        fallback = bool(getattr(self.spec, "fallback", False))
        return fallback, -int(getattr(self.spec, "priority", 0)), self.distribution != CORE


def best(family: str, fits: Sequence[Offer]) -> Offer:
    """The first by precedence. Raises PluginError where plugins replace each other in a circle."""
    _check_circle(family, fits)
    left = [o for o in fits if not _replacers(o, fits)]
    return min(left, key=lambda o: (o.standing, o.name, o.distribution))


def lost_to(winner: Offer, loser: Offer, fits: Sequence[Offer] = ()) -> Unmet:
    """Why `loser`, which fits as well, is not taken."""
    if replacers := _replacers(loser, fits or (winner,)):
        return Unmet("replaces", f"replaced by {replacers[0].name}")
    (w_fallback, w_priority, _), (fallback, priority, stranger) = winner.standing, loser.standing
    if fallback != w_fallback:
        return Unmet("fallback", f"a fallback; {winner.name} is none")
    if priority != w_priority:
        return Unmet("priority", f"its priority {-priority} is below {winner.name}'s {-w_priority}")
    if winner.standing != loser.standing and stranger:
        return Unmet("built-in", f"no higher priority than the built-in {winner.name}, and does not replace it")
    return Unmet("tie", f"a tie with {winner.name} of {winner.distribution}; the first by name is taken")


def _replacers(offer: Offer, among: Sequence[Offer]) -> list[Offer]:
    return [o for o in among if o is not offer and offer.name in o.spec.replaces and o.name != offer.name]


def _check_circle(family: str, fits: Sequence[Offer]) -> None:
    left = list(fits)
    while left:
        free = [o for o in left if not _replacers(o, left)]
        if not free:
            first, other = left[0], _replacers(left[0], left)[0]
            raise PluginError(
                f"{family} {first.name!r} of {first.distribution} {first.version} and {other.name!r} of "
                f"{other.distribution} {other.version} declare, in a circle, that they replace each other.",
                remedy="Name the one you want with its flag, or leave a distribution out with --plugins.",
            )
        left = [o for o in left if o not in free]
