"""One index for lists of a kind and a status, and to count what has not ended."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_index("task_kind_status", "task", ["kind", "status", "task_id"])
    op.drop_index("task_kind", "task")
