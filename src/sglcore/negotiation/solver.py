"""The solver: what is asked, and what is on offer, to one choice. It runs on Specs alone.

Precedence: a flag (which wins over the config file before it comes here), a hook, a plugin that `replaces` another,
built-ins and other plugins by priority, the fallback. The platform is settled first and never given up for what the
rest cannot do; a model is given up if no attention backend serves it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sglcore.contracts.attention import AttentionSpec
from sglcore.contracts.models import ModelSpec
from sglcore.contracts.platforms import PlatformSpec
from sglcore.contracts.quant import QuantSpec
from sglcore.errors import PluginError
from sglcore.negotiation.constraints import (
    Setting,
    Unmet,
    attention_unmet,
    model_unmet,
    ops_unmet,
    platform_unmet,
    probe_unmet,
    quant_unmet,
)
from sglcore.negotiation.decision import Decision, Refused, Verdict
from sglcore.negotiation.demand import Demand
from sglcore.negotiation.rank import Offer, best, lost_to

Prefer = Callable[[str, list[str]], str | None]  # (family, fitting names, best first) -> the hooks' choice
NO_ATTENTION = "No attention backend fits: "
Problems = Callable[[Any], Iterator[Unmet]]


class Solver:
    """One negotiation. `offers` by family; their order does not matter."""

    def __init__(self, demand: Demand, offers: Mapping[str, Sequence[Offer]], prefer: Prefer) -> None:
        self.demand = demand
        self.offers = {family: sorted(found, key=lambda o: o.name) for family, found in offers.items()}
        self.prefer = prefer
        self.verdicts: dict[tuple[str, str], Verdict] = {}

    def solve(self) -> Decision:
        """The choice with every verdict. Raises Refused (a ConfigError) naming the first unmet constraints."""
        platform: PlatformSpec = self._platform()
        self.demand = replace(self.demand, page_size=self.demand.page_size or platform.page_size)
        dtype = self.demand.dtype if self.demand.dtype != "auto" else platform.dtype_for(self.demand.stored)
        kv_dtype = self.demand.kv_dtype if self.demand.kv_dtype != "auto" else dtype
        setting = Setting(self.demand, platform.device, dtype, kv_dtype)
        if unmet := next(platform_unmet(platform, setting), None):
            self._note("platforms", self._offer("platforms", platform.name), "rejected", unmet)
            raise self._refused(f"Platform {platform.name} {unmet.text}.", "Change the flag that asks, or --device.")
        setting = replace(setting, quant=self._quant(setting))
        model, attention = self._model(setting)
        decode = self._decode(setting, model, attention)
        ops = self._ops(setting)
        rows, quant = self._rows(), setting.quant
        return Decision(platform, model, attention, quant, ops, dtype, kv_dtype, self.demand, rows, decode)

    # -- families --

    def _platform(self) -> PlatformSpec:
        named = self.demand.device
        fits = self._screen("platforms", self.offers["platforms"], probe_unmet, named, "--device")
        chosen = self._choose("platforms", fits, named, "--device")
        if chosen is None:
            raise self._unserved("platforms", "No platform can run here", named, "--device")
        spec: PlatformSpec = chosen.spec
        return spec

    def _quant(self, setting: Setting) -> QuantSpec | None:
        named, method = self.demand.quantization, self.demand.quant_method
        if not named and not method:
            return None
        fits = self._screen(
            "quant", self.offers["quant"], partial(quant_unmet, setting=setting), named, "--quantization"
        )
        chosen = self._choose("quant", fits, named, "--quantization")
        if chosen is None:
            what = f"The checkpoint is quantized ({method}), and no installed plugin reads it"
            remedy = f"Install a sglcore-plugin for {method}, or use an unquantized version of the model."
            raise self._unserved("quant", what, named, "--quantization", "" if named else remedy)
        spec: QuantSpec = chosen.spec
        return spec

    def _model(self, setting: Setting) -> tuple[ModelSpec, AttentionSpec]:
        """The best model that an attention backend serves, with that backend."""
        serving = [o for o in self.offers["models"] if o.spec is None or self._serves(o.spec)]
        fits = self._screen("models", serving, partial(model_unmet, setting=setting))
        for name in self.demand.architectures:
            if all(o.name != name for o in serving):
                self._note("models", Offer(name), "rejected", Unmet("installed", "no native plugin installed"))
        refusals: list[Refused] = []
        while fits:
            model = best("models", fits)
            try:
                attention = self._attention(setting, model.spec)
            except Refused as refusal:
                refusals.append(refusal)
                fits.remove(model)
                text = f"no attention backend serves it: {refusal.message.removeprefix(NO_ATTENTION)}"
                self._note("models", model, "rejected", Unmet("attention", text))
                continue
            self._settle("models", model, fits)
            return model.spec, attention
        if refusals:
            raise self._refused(refusals[0].message, refusals[0].remedy)
        what = f"No installed plugin serves {self.demand.architectures[0]}"
        remedy = "Install its sglcore-plugin, or allow the fallback with --model-impl auto."
        if any(v.constraint not in ("installed", "model_impl") for (f, _), v in self.verdicts.items() if f == "models"):
            remedy = "Leave out what it does not do, or install a plugin that does it."
        raise self._unserved("models", what, remedy=remedy)

    def _serves(self, spec: ModelSpec) -> bool:
        names = {spec.name, *spec.replaces}
        return spec.fallback or any(name in names for name in self.demand.architectures)

    def _attention(self, setting: Setting, model: ModelSpec) -> AttentionSpec:
        named = self.demand.attention
        problems = partial(attention_unmet, setting=setting, needs=model.needs)
        fits = self._screen("attention", self.offers["attention"], problems, named, "--attention-backend")
        chosen = self._choose("attention", fits, named, "--attention-backend")
        if chosen is None:
            remedy = "Change --page-size, --dtype or --kv-cache-dtype, or install another backend."
            raise self._unserved("attention", NO_ATTENTION.removesuffix(": "), named, "--attention-backend", remedy)
        spec: AttentionSpec = chosen.spec
        return spec

    def _decode(self, setting: Setting, model: ModelSpec, chosen: AttentionSpec) -> AttentionSpec | None:
        """Another backend for steps of single tokens: the one named, or who says that it serves them better."""
        named = self.demand.decode_attention
        hooked = self.verdicts["attention", chosen.name].constraint == "hook"
        if named == chosen.name or (not named and (self.demand.attention or hooked)):
            return None
        fits, flag = {}, "--decode-attention-backend"
        for offer in self.offers["attention"]:
            unmet = (
                next(attention_unmet(offer.spec, setting, model.needs), None) if offer.spec else Unmet("", offer.broken)
            )
            if unmet is None:
                fits[offer.name] = offer
            elif offer.name == named:
                raise self._refused(f"{flag} {named}: {unmet.text}.", "Choose another, or leave the flag out.")
        best_name = named or max(
            sorted(fits), key=lambda name: (_decode_priority(fits[name].spec), name == chosen.name)
        )
        if best_name == chosen.name:
            return None
        self._note("attention", fits[best_name], "chosen", Unmet("decode_priority", "for steps of single tokens"))
        found: AttentionSpec = fits[best_name].spec
        return found

    def _ops(self, setting: Setting) -> tuple[tuple[str, str], ...]:
        """(op, name of the plugin whose kernel replaces the platform's own)."""
        fits = self._screen("ops", self.offers["ops"], partial(ops_unmet, setting=setting))
        provided = sorted({name for offer in fits for name in offer.spec.provides})
        rivals = {op: [o for o in fits if op in o.spec.provides] for op in provided}
        winners = {op: best("ops", found) for op, found in rivals.items()}
        for offer in fits:
            won = ", ".join(op for op in provided if winners[op] is offer)
            lost = next((op for op in offer.spec.provides if winners[op] is not offer), "")
            why = Unmet("", f"for {won}") if won else lost_to(winners[lost], offer, rivals[lost])
            self._note("ops", offer, "chosen" if won else "fits", why)
        return tuple((op, winner.name) for op, winner in winners.items())

    # -- one family --

    def _screen(
        self, family: str, offers: Sequence[Offer], problems: Problems, named: str = "", flag: str = ""
    ) -> list[Offer]:
        """Those that fit; the others' first unmet constraint is noted."""
        fits = []
        for offer in offers:
            unmet: Unmet | None
            if named and offer.name != named:
                unmet = Unmet("named", f"{flag} names {named}")
            elif offer.spec is None:
                unmet = Unmet("broken", offer.broken)
            else:
                unmet = next(problems(offer.spec), None)
            self._note(family, offer, "rejected" if unmet else "fits", unmet)
            if unmet is None:
                fits.append(offer)
        return fits

    def _choose(self, family: str, fits: list[Offer], named: str, flag: str) -> Offer | None:
        if not fits:
            return None
        if named:
            self._note(family, fits[0], "chosen", Unmet("", f"by {flag}"))
            return fits[0]
        chosen = best(family, fits)
        rest = sorted((o for o in fits if o is not chosen), key=lambda o: (o.standing, o.name))
        order = [chosen.name, *(o.name for o in rest)]
        hooked = self.prefer(family, order)
        if hooked is not None and hooked not in order:
            raise PluginError(
                f"A choose_{family} hook named {hooked!r}, which is not among those that fit: {', '.join(order)}.",
                remedy="Leave the hook's distribution out with --plugins.",
            )
        if hooked is None:
            self._settle(family, chosen, fits)
            return chosen
        for offer in fits:
            won = offer.name == hooked
            self._note(family, offer, "chosen" if won else "fits", Unmet("hook", f"a hook named {hooked}"))
        return self._offer(family, hooked)

    def _settle(self, family: str, chosen: Offer, fits: list[Offer]) -> None:
        for offer in fits:
            self._note(family, offer, "fits", lost_to(chosen, offer, fits))
        self._note(family, chosen, "chosen", None)

    def _offer(self, family: str, name: str) -> Offer:
        return next(o for o in self.offers[family] if o.name == name)

    def _note(self, family: str, offer: Offer, state: str, why: Unmet | None) -> None:
        text, constraint = (why.text, why.constraint) if why else ("", "")
        verdict = Verdict(family, offer.name, offer.distribution, offer.version, state, constraint, text)
        self.verdicts[family, offer.name] = verdict

    def _unserved(self, family: str, what: str, named: str = "", flag: str = "", remedy: str = "") -> Refused:
        if named:
            return self._refused(f"{flag} {named}: {self.verdicts[family, named].reason}.", remedy)
        rows = [v for (f, _), v in sorted(self.verdicts.items()) if f == family and v.constraint != "installed"]
        reasons = "; ".join(f"{v.name}: {v.reason}" for v in rows)
        return self._refused(f"{what}{f': {reasons}' if reasons else ''}.", remedy)

    def _refused(self, message: str, remedy: str) -> Refused:
        return Refused(message, remedy=remedy, verdicts=self._rows())

    def _rows(self) -> tuple[Verdict, ...]:
        order = list(self.offers)
        return tuple(sorted(self.verdicts.values(), key=lambda v: (order.index(v.family), v.name)))


def _decode_priority(spec: AttentionSpec) -> int:
    return spec.priority if spec.decode_priority is None else spec.decode_priority
