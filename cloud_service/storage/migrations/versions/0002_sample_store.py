"""The sample store: human labels, embeddings, duplicates; what was deleted for good; payloads to delete."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_AUDITS = "reason = 'audit'"
_DUPLICATES = "duplicate_of IS NOT NULL"
_UNANSWERED = "label IS NULL AND failure IS NULL"


def _number() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    # Column by column, not in batch mode: SQLite adds each without copying the table.
    for column in (
        sa.Column("human_label", _number(), nullable=True),
        sa.Column("labelled_by", sa.String(length=64), nullable=True),
        sa.Column("labelled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("embedding", sa.LargeBinary(), nullable=True),
        sa.Column("temperature", sa.Double(), nullable=False, server_default="1"),
        sa.Column("pack", sa.String(length=64), nullable=False, server_default=""),
        sa.Column("pack_start", _number(), nullable=False, server_default="0"),
        sa.Column("payload_bytes", _number(), nullable=False, server_default="0"),
        sa.Column("duplicates", _number(), nullable=False, server_default="0"),
        sa.Column("duplicate_of", sa.Uuid(), nullable=True),
        sa.Column("own_pack", sa.String(length=64), nullable=True),
    ):
        op.add_column("samples", column)
    # Until now each payload was an object of its own.
    op.execute("UPDATE samples SET pack = blob")
    op.create_index(
        "samples_firsts",
        "samples",
        ["blob", "device"],
        unique=False,
        sqlite_where=sa.text("duplicate_of IS NULL"),
        postgresql_where=sa.text("duplicate_of IS NULL"),
    )
    op.create_index("samples_by_pack", "samples", ["pack"], unique=False)
    op.create_index(
        "samples_unanswered",
        "samples",
        ["number"],
        unique=False,
        sqlite_where=sa.text(_UNANSWERED),
        postgresql_where=sa.text(_UNANSWERED),
    )
    op.create_index(
        "samples_audits",
        "samples",
        ["task", "stored_at"],
        unique=False,
        sqlite_where=sa.text(_AUDITS),
        postgresql_where=sa.text(_AUDITS),
    )
    op.create_index(
        "samples_duplicates",
        "samples",
        ["duplicate_of"],
        unique=False,
        sqlite_where=sa.text(_DUPLICATES),
        postgresql_where=sa.text(_DUPLICATES),
    )
    op.create_table(
        "tombstones",
        sa.Column("number", _number(), autoincrement=True, nullable=False),
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("task", sa.String(length=64), nullable=False),
        sa.Column("seq_until", _number(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_index("tombstones_by_device", "tombstones", ["device", "task"], unique=False)
    op.create_table(
        "purged_samples",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "worn_packs",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("dead_bytes", _number(), nullable=False),
        sa.Column("due", sa.Boolean(), nullable=False),
        sa.Column("deleted", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )


def downgrade() -> None:
    op.drop_table("worn_packs")
    op.drop_table("purged_samples")
    op.drop_index("tombstones_by_device", table_name="tombstones")
    op.drop_table("tombstones")
    op.drop_index("samples_duplicates", table_name="samples")
    op.drop_index("samples_audits", table_name="samples")
    op.drop_index("samples_unanswered", table_name="samples")
    op.drop_index("samples_by_pack", table_name="samples")
    op.drop_index("samples_firsts", table_name="samples")
    with op.batch_alter_table("samples") as samples:
        for name in (
            "own_pack",
            "duplicate_of",
            "duplicates",
            "payload_bytes",
            "pack_start",
            "pack",
            "temperature",
            "embedding",
            "labelled_at",
            "labelled_by",
            "human_label",
        ):
            samples.drop_column(name)
