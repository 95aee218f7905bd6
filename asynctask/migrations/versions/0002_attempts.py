"""Timeouts, retries, cancels, and keys that make a POST safe to repeat."""

import sqlalchemy as sa
from alembic import op

from asynctask.migrations import where

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    for column in (
        sa.Column("timeout", sa.Double),
        sa.Column("retries", sa.Integer, nullable=False, server_default="0"),
        sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
        sa.Column("cancel_requested", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("longest_step", sa.Double),
        sa.Column("traceparent", sa.Text),
    ):
        op.add_column("task", column)
    op.create_index("task_finished", "task", ["finished_at"], **where("finished_at IS NOT NULL"))
    op.create_table(
        "idempotency",
        sa.Column("scope", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("task_id", sa.Text),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
    )
    op.create_index("idempotency_expires", "idempotency", ["expires_at"])
    # A program that knows only the first schema would lose cancels and retries.
    op.execute("UPDATE meta SET value = '2' WHERE key = 'readable_from'")
