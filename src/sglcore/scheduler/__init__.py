"""Scheduling: which rows compute how many tokens in the next step. No tensors here."""

from sglcore.scheduler.admission import Limits
from sglcore.scheduler.priority import PriorityRules
from sglcore.scheduler.scheduler import PauseMode, Scheduler
from sglcore.scheduler.sessions import SessionLimits

__all__ = ["Limits", "PauseMode", "PriorityRules", "Scheduler", "SessionLimits"]
