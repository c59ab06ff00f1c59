"""KV transfers: pages computed by another engine (prefill/decode split). Provisional: drafted, not yet called.

A prefill engine computes a prompt and sends its pages; a decode engine takes them in and goes on. On the decode side
the request is in state WAITING_KV from its admission until the last page and the first token are there:

    prefill engine   offer ----------> compute chunk, send | compute chunk, send | send last, first token
    decode engine    reserve pages, expect(source) ... poll ... arrived ... seated with its first token

Pages are reserved without computing anything; the waiting has a deadline; it can be cancelled from either side; what
arrived in part is kept and the rest is computed here, if the engine may.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from sglcore.contracts.pages import Transfer
from sglcore.contracts.spec import Spec

if TYPE_CHECKING:
    from sglcore.contracts.pages import PageRun
    from sglcore.request import TokenLogprobs


@dataclass(frozen=True, kw_only=True)
class KVTransferSpec(Spec):
    """A way between two engines. `factory(context: PageContext) -> KVTransfer`, once per rank, in the loop thread.

    transports: what it runs over, for listings and negotiation between the two ends: "tcp", "rdma", "shm", "file".
    kinds: kinds of `KVGroup` whose pages it can carry.
    reshards: sender and receiver may have different tensor-parallel sizes.
    chunked: pages may be sent while the rest of the prompt is still being computed.
    """

    transports: tuple[str, ...] = ("tcp",)
    kinds: tuple[str, ...] = ("full",)
    reshards: bool = False
    chunked: bool = True


@dataclass(frozen=True)
class FirstToken:
    """What the prefill engine sampled from the prompt's last position: the token that the decode engine goes on from.

    token_id: the token. logprob: its logprob with the top ones, where the request asked.
    seed: what the request's later tokens are drawn with, so that the split does not show in them.
    """

    token_id: int
    seed: int
    logprob: TokenLogprobs | None = None


class Arrival(Transfer, Protocol):
    """A transfer that ends with a token. Owned by the decode engine's core."""

    def first_token(self) -> FirstToken | None:
        """The first token once it is known; it is there before `poll` says "done". Never computed here."""
        ...


class KVTransfer(Protocol):
    """One end. Lives in the engine process, one a rank; an engine may be both ends.

    Every call comes from the engine's loop thread, between steps, and returns at once; bytes move on threads or streams
    of the plugin's own. Both ends must run under the same layout, except for the shard where the spec says `reshards`.
    """

    def offer(self, rid: str, *, tokens: int, deadline: float) -> Mapping[str, Any]:
        """Prefill side, when the request is admitted: prepare to send `tokens` positions. Returns what the other end
        needs to find this one, as JSON; the router carries it there as the request's `source`. After the deadline
        (monotonic seconds) whatever nobody fetched is dropped."""
        ...

    def send(self, rid: str, run: PageRun, *, last: FirstToken | None = None) -> Transfer:
        """Prefill side, after each committed chunk: send these pages, in order. `last` comes with the final run. The
        core holds the pages until the transfer has ended."""
        ...

    def expect(self, rid: str, source: Mapping[str, Any], run: PageRun, *, deadline: float) -> Arrival:
        """Decode side, at admission: take in the pages of a whole prompt. The pages of `run` are reserved, nothing is
        computed. `source` is what `offer` returned, from the network: it is checked, and an unusable one raises
        RequestError. The core cancels at the deadline (monotonic seconds)."""
        ...

    def withdraw(self, rid: str) -> None:
        """Prefill side: the request was aborted or has been handed over. Ends its transfers as if cancelled and tells
        the other end, whose Arrival fails. Idempotent; an unknown rid is no error."""
        ...

    def close(self) -> None:
        """End everything as if cancelled and release connections. Idempotent; may block."""
        ...
