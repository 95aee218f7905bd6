"""Callbacks that are due are found in their order, though thousands may be due at the same moment."""

from alembic import op

from asynctask.migrations import where

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.drop_index("task_callback", "task")
    op.create_index(
        "task_callback", "task", ["callback_due", "task_id"], **where("callback_due IS NOT NULL")
    )
