"""The schema as it is now. How it came to be is in ``migrations``; a test holds the two together."""

from typing import Final

from sqlalchemy import Column, Double, Index, Integer, MetaData, Table, Text, text

SCHEMA: Final = 1
"""The newest migration that this version knows."""

APPLICATION_ID: Final = 0x61746B31
"""Marks a SQLite file as ours (``PRAGMA application_id``; "atk1")."""

metadata: Final = MetaData()

# JSON is kept as text, so that what went in comes out; times are seconds since the epoch.
task: Final = Table(
    "task",
    metadata,
    Column("task_id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("input", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("crashes", Integer, nullable=False),
    Column("owner", Text),
    Column("accepted_at", Double, nullable=False),
    Column("run_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("progress", Text),
    Column("result", Text),
    Column("error", Text),
    # The history: entries with commas between, and how many.
    Column("changes", Text, nullable=False),
    Column("n", Integer, nullable=False),
    Index("task_status", "status", "task_id"),
    Index("task_name", "name", "task_id"),
    Index("task_kind", "kind", "task_id"),
    Index(
        "task_due",
        "kind",
        "run_at",
        "task_id",
        sqlite_where=text("status IN ('accepted', 'retrying')"),
    ),
    Index("task_owner", "owner", sqlite_where=text("status = 'running'")),
)

meta: Final = Table(
    "meta",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
