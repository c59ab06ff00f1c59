"""The parser author's kit: cut a stream at markers, read JSON as it comes, check the order of events. No torch.

Everything here gives the same for any chunking of its input, and does a bounded amount of work for each character.
"""

from sglcore.parsing.call_object import CallObject
from sglcore.parsing.cut import cut
from sglcore.parsing.json_value import JsonValue
from sglcore.parsing.order import EventOrder

__all__ = ["CallObject", "EventOrder", "JsonValue", "cut"]
