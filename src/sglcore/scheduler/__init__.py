"""Scheduling: which rows compute how many tokens in the next step. No tensors here."""

from sglcore.scheduler.scheduler import Limits, Scheduler

__all__ = ["Limits", "Scheduler"]
