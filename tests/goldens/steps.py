"""Bounds of T steps."""

from torch import Tensor

from redraft.schedule import Schedule
from tests.goldens.case import NOT_BUILT, Case, NotOffered
from tests.goldens.networks import Network


def dense(case: Case, found: Network, schedule: Schedule, t: Tensor) -> dict:
    """D3PM's bound of T steps."""
    raise NotOffered(f"{NOT_BUILT}: bounds of T steps")
