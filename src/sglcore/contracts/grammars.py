"""Grammars: which tokens may come next, for structured output. Provisional: drafted, not yet called.

A request names a grammar (a JSON schema, a regular expression, ...). It is compiled off the loop thread while the
request waits; then every branch has a matcher, which says by a mask which tokens the sampler may pick. Masks are filled
on the CPU while the device computes the forward pass of the same step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sglcore.contracts.spec import Spec, optional

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class GrammarSpec(Spec):
    """A backend. `factory(context: GrammarContext) -> GrammarBackend`, once in the engine process.

    kinds: the kinds of `GrammarSource` it compiles; a request for another kind is refused by name.
    rollback: how many tokens a matcher can take back; speculation drafts no more than that under a grammar.
    priority: of several backends that compile a kind, the highest is taken.
    """

    kinds: tuple[str, ...]
    rollback: int = 0
    priority: int = 0


@dataclass(frozen=True)
class GrammarContext:
    """What a backend is built with; the same for every request.

    vocabulary: the bytes of each token by id, b"" for an id that is no text. Its length is at most vocab_size.
    vocab_size: columns of the logits; a mask has ceil(vocab_size / 32) words a row.
    eos_ids: tokens that end a text; allowed exactly where the grammar is complete.
    special_ids: tokens that are never text, whatever their bytes.
    options: the plugin's own settings, from its flags (`EngineConfig.extras`).
    """

    vocabulary: Sequence[bytes]
    vocab_size: int
    eos_ids: tuple[int, ...]
    special_ids: frozenset[int] = frozenset()
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GrammarSource:
    """A grammar as a request brings it. Equal sources have equal meaning, so the core compiles each once and keeps it.

    kind: the language of `text`; "structural_tag" is a grammar that begins where a trigger string is generated.
    text: JSON for "json_schema" and "structural_tag", else in its own language.
    """

    kind: Literal["json_schema", "regex", "ebnf", "structural_tag"]
    text: str


class GrammarBackend(Protocol):
    """Compiles grammars. Lives in the engine process."""

    def compile(self, source: GrammarSource) -> CompiledGrammar:
        """Called in a worker thread, several at once; the request waits outside the batch meanwhile.

        The source comes from a client: raises RequestError (param `response_format` and the like) for what is
        malformed, not supported or too large, and is bounded in time and memory whatever the text says. The result is
        shared by requests and belongs to the core's cache.
        """
        ...

    @optional
    def close(self) -> None:
        """The engine ends. Release threads. Idempotent."""
        return


class CompiledGrammar(Protocol):
    """A compiled grammar: immutable, shared between threads and requests."""

    size: int  # bytes it takes, roughly; the core's cache is bounded by their sum

    def matcher(self) -> Matcher:
        """A fresh matcher at the grammar's beginning, owned by one branch. Cheap: called in the loop thread."""
        ...

    @optional
    def rebuild(self, tokens: Sequence[int]) -> Matcher:
        """A matcher that has accepted `tokens`, all that the branch has generated so far.

        Called when a branch is seated again after a retraction or replayed into a restarted engine: the state of a
        matcher is a function of (request, tokens) and nothing else. Raises ValueError if they do not match.
        """
        matcher = self.matcher()
        if matcher.accept(tokens) != len(tokens):
            raise ValueError(f"the grammar refuses one of {len(tokens)} tokens that it allowed before")
        return matcher


class Matcher(Protocol):
    """The grammar's state of one branch. Calls come one at a time: from the loop thread, those of `fill` perhaps from a
    worker thread, while others fill the rows of other matchers.

    In the overlapped loop step N is accepted before the mask of step N + 1 is filled, so a grammar costs no overlap of
    the forward pass, only the sampler's waiting for the mask.
    """

    def accept(self, tokens: Sequence[int]) -> int:
        """Take generated tokens in, in order; returns how many it took. At the first that the grammar refuses it stops
        and stays where it is. EOS is taken where the grammar is complete."""
        ...

    def fill(self, mask: np.ndarray, row: int) -> bool:
        """Write what may come next into `mask[row]`; returns False if everything may, and then has written nothing.

        mask: int32 [rows, ceil(vocab_size / 32)], C order, the core's; token t is bit t % 32 (lowest first) of word
        t // 32, set where allowed. All words of the row are written; bits from vocab_size on are 0. At least one token
        is allowed, EOS if nothing else. Other rows are not touched: several threads may fill one mask.
        """
        ...

    def finished(self) -> bool:
        """Whether the grammar has accepted EOS or can accept nothing but it."""
        ...

    def rollback(self, count: int) -> None:
        """Take back the last `count` accepted tokens, at most `GrammarSpec.rollback`. For drafts that were refused."""
        ...

    def fork(self) -> Matcher:
        """An independent matcher in the same state, for a branch that splits off (several answers, beams)."""
        ...

    @optional
    def forced(self) -> list[int]:
        """Token ids that must come next whatever the model says, possibly none. They may be committed without sampling;
        they are then accepted like any others."""
        return []
