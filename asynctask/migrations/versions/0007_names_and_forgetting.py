"""Lists of a name are read by their statuses, and what may be forgotten is found past pending callbacks."""

from alembic import op

from asynctask.migrations import where

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.drop_index("task_name", "task")
    op.create_index("task_name_status", "task", ["name", "status", "task_id", "kind"])
    op.drop_index("task_finished", "task")
    op.create_index(
        "task_finished",
        "task",
        ["finished_at"],
        **where("finished_at IS NOT NULL AND callback_due IS NULL"),
    )
