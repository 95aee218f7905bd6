"""The tasks, and what the store knows of itself."""

import sqlalchemy as sa
from alembic import op

from asynctask.migrations import where
from asynctask.tables import APPLICATION_ID, ID_TEXT

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "task",
        sa.Column("task_id", ID_TEXT, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("input", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("crashes", sa.Integer, nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("accepted_at", sa.Double, nullable=False),
        sa.Column("run_at", sa.Double, nullable=False),
        sa.Column("started_at", sa.Double),
        sa.Column("finished_at", sa.Double),
        sa.Column("progress", sa.Text),
        sa.Column("result", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("changes", sa.Text, nullable=False),
        sa.Column("n", sa.Integer, nullable=False),
    )
    op.create_index("task_status", "task", ["status", "task_id"])
    op.create_index("task_name", "task", ["name", "task_id"])
    op.create_index("task_kind", "task", ["kind", "task_id"])
    op.create_index(
        "task_due",
        "task",
        ["kind", "run_at", "task_id"],
        **where("status IN ('accepted', 'retrying')"),
    )
    op.create_index("task_owner", "task", ["owner"], **where("status = 'running'"))
    meta = op.create_table(
        "meta",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    if op.get_bind().dialect.name == "sqlite":
        op.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    op.bulk_insert(meta, [{"key": "readable_from", "value": "1"}])
