"""What happened, for those who follow it, and whom to tell how a task ended."""

from secrets import token_hex

import sqlalchemy as sa
from alembic import op

from asynctask.migrations import where
from asynctask.tables import NUMBER

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "event",
        sa.Column("seq", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("upto", sa.BigInteger, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    for column in (
        sa.Column("callback_url", sa.Text),
        sa.Column("callback_state", sa.Text),
        sa.Column("callback_due", sa.Double),
        sa.Column("callback_tries", sa.Integer, nullable=False, server_default="0"),
        sa.Column("callback_error", sa.Text),
    ):
        op.add_column("task", column)
    op.create_index("task_callback", "task", ["callback_due"], **where("callback_due IS NOT NULL"))
    meta = sa.table("meta", sa.column("key"), sa.column("value"))
    op.bulk_insert(meta, [{"key": "epoch", "value": token_hex(6)}])
    # A program that knows only the second schema would change tasks without a word to those who follow.
    op.execute("UPDATE meta SET value = '3' WHERE key = 'readable_from'")
