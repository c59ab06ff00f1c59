"""The plugin families and the API version of each that this core reads.

A plugin registers in entry-point group `sglcore.<family>.v<N>`; the core reads versions N and N-1.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """name: as in the group. version: N. oldest: lowest still read. what: for listings."""

    name: str
    version: int
    oldest: int
    what: str
    network: bool = False  # faces the network: a stranger's is loaded only when named

    @property
    def groups(self) -> tuple[tuple[str, int], ...]:
        """Entry-point groups read, newest first, with their API version."""
        return tuple((f"sglcore.{self.name}.v{n}", n) for n in range(self.version, self.oldest - 1, -1))


FAMILIES: dict[str, Family] = {
    f.name: f
    for f in (
        Family("models", 1, 1, "model architectures, by Hugging Face class name"),
        Family("attention", 1, 1, "attention backends"),
        Family("platforms", 1, 1, "hardware platforms"),
        Family("ops", 1, 1, "kernels that replace a platform's own"),
        Family("weight_sources", 1, 1, "where a model name leads: directory, hub, package"),
        Family("weight_formats", 1, 1, "how weights, config and tokenizer are read from files"),
        Family("policies", 1, 1, "order of the waiting queue"),
        Family("routes", 1, 1, "HTTP dialects", network=True),
        Family("commands", 1, 1, "CLI commands"),
        Family("hooks", 1, 1, "modules with pluggy hook implementations"),
    )
}
