"""Jobs: why they were started, how long they have trained, and where."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("reason", sa.String(length=2000), server_default="", nullable=False))
    op.add_column("jobs", sa.Column("seconds", sa.Double(), server_default="0", nullable=False))
    op.add_column("jobs", sa.Column("instance", sa.String(length=64), server_default="", nullable=False))
    op.create_index("jobs_by_task", "jobs", ["task", "number"])


def downgrade() -> None:
    op.drop_index("jobs_by_task", "jobs")
    op.drop_column("jobs", "instance")
    op.drop_column("jobs", "seconds")
    op.drop_column("jobs", "reason")
