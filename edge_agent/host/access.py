"""Would the service's account get at a file? Judged by owner and mode, as an installation has to before it exists."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from dataclasses import dataclass, field
from pathlib import Path

from edge_agent.host.unit import Plan, is_hidden


@dataclass(frozen=True, slots=True)
class Account:
    """Who the service runs as.

    Attributes:
        uid: None: an account that systemd makes up, which owns nothing yet.
        groups: ids of all groups it is in.
    """

    uid: int | None = None
    groups: frozenset[int] = field(default_factory=frozenset)


def account_of(plan: Plan) -> Account:
    """Who a planned service would run as; its user and groups are there."""
    groups = {grp.getgrnam(name).gr_gid for name in plan.needs.groups}
    if plan.user is None:
        return Account(groups=frozenset(groups))
    user = pwd.getpwnam(plan.user)
    return Account(user.pw_uid, frozenset(groups | set(os.getgrouplist(plan.user, user.pw_gid))))


def unreachable(plan: Plan, account: Account) -> list[str]:
    """What the service could not read or write, each with what to type."""
    told = []
    for path in dict.fromkeys((plan.config, *plan.program_folders, *plan.needs.reads)):
        start = (plan.config.parent if path == plan.config else path) if is_hidden(path) else None
        where = obstacle(path, account, outside=start)
        if where is not None:
            told.append(f"it may not read {path}: type  sudo chmod o+rX {where}")
    for path in plan.needs.writes if plan.state_name is not None else (plan.state_dir, *plan.needs.writes):
        where = obstacle(path, account, write=True, outside=path if is_hidden(path) else None)
        if where is None:
            continue
        remedy = f"type  sudo chown -R {plan.user} {where}" if plan.user else "name an account that may, with --user"
        told.append(f"it may not write into {path}: {remedy}")
    return told


def obstacle(path: Path, account: Account, *, write: bool = False, outside: Path | None = None) -> Path | None:
    """The first of `path` and the folders above it that keeps the account from reading (or writing into) `path`.

    Args:
        outside: folders above this one do not count: systemd mounts it where the service sees it.

    Returns:
        None: nothing is in the way, or `path` is not there, which is another question.
    """
    if account.uid == 0:
        return None
    for folder in reversed(path.parents):
        counts = outside is None or folder.is_relative_to(outside)
        if counts and folder.is_dir() and not _may(folder, account, os.X_OK):
            return folder
    if not path.exists():
        return None
    mode = os.R_OK | (os.W_OK if write else 0) | (os.X_OK if path.is_dir() else 0)
    return None if _may(path, account, mode) else path


def _may(path: Path, account: Account, mode: int) -> bool:
    """As the kernel decides it (path_resolution(7)): the first class that fits counts, even if a later allows more."""
    status = path.stat()
    if account.uid == status.st_uid:
        shift = 6
    elif status.st_gid in account.groups:
        shift = 3
    else:
        shift = 0
    return (stat.S_IMODE(status.st_mode) >> shift) & mode == mode
