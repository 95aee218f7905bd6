"""Many processes on one database: which of them are alive, and who ended an attempt."""

import sqlalchemy as sa
from alembic import op

from asynctask.migrations import where

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "process",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("seen", sa.Double, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
    )
    op.add_column("task", sa.Column("ended_by", sa.Text))
    op.create_index(
        "task_cancelling", "task", ["owner"], **where("status = 'running' AND cancel_requested")
    )
    if op.get_bind().dialect.name == "postgresql":
        # Counted for kinds that run only so often in all processes.
        op.create_index("task_running", "task", ["kind"], **where("status = 'running'"))
