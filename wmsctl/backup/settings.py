"""Schedule and policy of a platform, from its inventory: pure."""

from __future__ import annotations

from datetime import time

from wmsctl import inventory as contract
from wmsctl.backup.retention import Policy, Tier
from wmsctl.backup.schedule import Schedule
from wmsctl.errors import Usage
from wmsctl.inventory import Inventory

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def section(inventory: Inventory) -> contract.Backup:
    """The backup section. Raises Usage for a platform without backups."""
    if inventory.backup is None:
        raise Usage(
            f"the platform {inventory.platform} has no backups",
            hint="its inventory is older than they are: make up, then import it again",
        )
    return inventory.backup


def schedule(backup: contract.Backup) -> Schedule:
    """When runs are due. Raises Usage for values that make no schedule."""
    main, long_term = _repositories(backup)
    try:
        return Schedule(
            daily=time.fromisoformat(backup.schedule.daily),
            incremental=tuple(time.fromisoformat(at) for at in backup.schedule.incremental),
            week_start=_weekday(backup),
            repo=main,
            long_term=long_term,
        )
    except ValueError as error:
        raise Usage(f"the inventory's backup schedule is wrong: {error}") from error


def policy(backup: contract.Backup) -> Policy:
    """What is kept. A tier of the length 0 is none. Raises Usage for values that make no policy."""
    main, long_term = _repositories(backup)
    terms = backup.retention
    first = (main,)
    far = (long_term, main) if long_term is not None else first
    tiers = (
        Tier("daily", "day", terms.daily_days, first),
        Tier("weekly", "week", terms.weekly_weeks, first),
        Tier("monthly", "month", terms.monthly_months, far),
        Tier("archive", "year", terms.archive_years, far),
    )
    try:
        return Policy(
            point_in_time_days=terms.daily_days,
            point_in_time_repo=main,
            tiers=tuple(tier for tier in tiers if tier.count),
            week_start=_weekday(backup),
        )
    except ValueError as error:
        raise Usage(f"the inventory's retention is wrong: {error}") from error


def _repositories(backup: contract.Backup) -> tuple[int, int | None]:
    """Numbers of the repository that WAL goes to, and of the long-term one."""
    main = [repo.number for repo in backup.repositories if not repo.long_term]
    far = [repo.number for repo in backup.repositories if repo.long_term]
    if len(main) != 1 or len(far) > 1:
        raise Usage("the inventory needs one repository for WAL, and at most one for the long term")
    return main[0], far[0] if far else None


def _weekday(backup: contract.Backup) -> int:
    try:
        return WEEKDAYS.index(backup.schedule.full_day)
    except ValueError:
        raise Usage(
            f"the inventory's backup.schedule.full_day is {backup.schedule.full_day!r}; it is one of"
            f" {', '.join(WEEKDAYS)}"
        ) from None
