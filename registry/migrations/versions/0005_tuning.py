"""Files, tuning jobs with their events and checkpoints, datasets, and what the gate said of versions."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_AT_WORK = sa.text("state IN ('validating_files', 'running')")


def upgrade() -> None:
    """Create the tables of tuning, and give versions a verdict, a lineage and a report."""
    op.create_table(
        "files",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("key_id", sa.String(length=24), nullable=False),
        sa.Column("filename", sa.String(length=255), nullable=False),
        sa.Column("purpose", sa.String(length=32), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("is_stored", sa.Boolean(), nullable=False),
        sa.Column("is_cleared", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_files"),
    )
    with op.batch_alter_table("files") as table:
        table.create_index("ix_files_created_at_id", ["created_at", "id"], unique=False)
        table.create_index("ix_files_digest", ["digest"], unique=False)

    op.create_table(
        "tuning_datasets",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("adapter", sa.String(length=63), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("method", sa.String(length=16), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("sources", sa.JSON(), nullable=False),
        sa.Column("parents", sa.JSON(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.Column("job", sa.String(length=32), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_tuning_datasets"),
        sa.UniqueConstraint("adapter", "digest", name="uq_tuning_datasets_adapter_digest"),
    )
    op.create_table(
        "tuning_jobs",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("key_id", sa.String(length=24), nullable=False),
        sa.Column("adapter", sa.String(length=63), nullable=False),
        sa.Column("base", sa.String(length=255), nullable=False),
        sa.Column("model", sa.String(length=255), nullable=False),
        sa.Column("order", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("stage", sa.String(length=20), nullable=False),
        sa.Column("wanted", sa.String(length=10), nullable=False),
        sa.Column("idempotency_key", sa.String(length=255), nullable=True),
        sa.Column("asked", sa.String(length=64), nullable=False),
        sa.Column("worker", sa.String(length=120), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("claimable_from", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("dataset", sa.String(length=64), nullable=True),
        sa.Column("checkpoint", sa.String(length=64), nullable=True),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("fine_tuned_model", sa.String(length=128), nullable=True),
        sa.Column("trained_tokens", sa.BigInteger(), nullable=True),
        sa.Column("result_file", sa.String(length=32), nullable=True),
        sa.Column("rule", sa.JSON(), nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("created_by", sa.String(length=120), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("estimated_finish", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_tuning_jobs"),
        sa.UniqueConstraint("key_id", "idempotency_key", name="uq_tuning_jobs_key_id_idempotency_key"),
    )
    with op.batch_alter_table("tuning_jobs") as table:
        table.create_index("ix_tuning_jobs_adapter", ["adapter"], unique=False)
        table.create_index("ix_tuning_jobs_created_at_id", ["created_at", "id"], unique=False)
        table.create_index("ix_tuning_jobs_state_created_at", ["state", "created_at"], unique=False)
        table.create_index(
            "uq_tuning_jobs_adapter_at_work", ["adapter"], unique=True, sqlite_where=_AT_WORK, postgresql_where=_AT_WORK
        )

    op.create_table(
        "tuning_job_files",
        sa.Column("job", sa.String(length=32), nullable=False),
        sa.Column("file", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["tuning_jobs.id"], name="fk_tuning_job_files_job_tuning_jobs"),
        sa.PrimaryKeyConstraint("job", "file", name="pk_tuning_job_files"),
    )
    with op.batch_alter_table("tuning_job_files") as table:
        table.create_index("ix_tuning_job_files_file", ["file"], unique=False)

    op.create_table(
        "tuning_checkpoints",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("job", sa.String(length=32), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=True),
        sa.Column("is_best", sa.Boolean(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["tuning_jobs.id"], name="fk_tuning_checkpoints_job_tuning_jobs"),
        sa.PrimaryKeyConstraint("id", name="pk_tuning_checkpoints"),
        sa.UniqueConstraint("job", "step", name="uq_tuning_checkpoints_job_step"),
    )
    op.create_table(
        "tuning_events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("job", sa.String(length=32), nullable=False),
        sa.Column("level", sa.String(length=8), nullable=False),
        sa.Column("type", sa.String(length=8), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["tuning_jobs.id"], name="fk_tuning_events_job_tuning_jobs"),
        sa.PrimaryKeyConstraint("id", name="pk_tuning_events"),
    )
    with op.batch_alter_table("tuning_events") as table:
        table.create_index("ix_tuning_events_job_id", ["job", "id"], unique=False)

    with op.batch_alter_table("versions") as table:
        table.add_column(sa.Column("verdict", sa.String(length=12), nullable=True))
        table.add_column(sa.Column("lineage", sa.JSON(), nullable=True))
        table.add_column(sa.Column("report", sa.JSON(), nullable=True))

    with op.batch_alter_table("revisions") as table:
        table.add_column(sa.Column("forced", sa.JSON(), nullable=True))


def downgrade() -> None:
    """Drop what is new."""
    with op.batch_alter_table("revisions") as table:
        table.drop_column("forced")

    with op.batch_alter_table("versions") as table:
        table.drop_column("report")
        table.drop_column("lineage")
        table.drop_column("verdict")

    with op.batch_alter_table("tuning_events") as table:
        table.drop_index("ix_tuning_events_job_id")

    op.drop_table("tuning_events")
    op.drop_table("tuning_checkpoints")
    with op.batch_alter_table("tuning_job_files") as table:
        table.drop_index("ix_tuning_job_files_file")

    op.drop_table("tuning_job_files")
    with op.batch_alter_table("tuning_jobs") as table:
        table.drop_index("uq_tuning_jobs_adapter_at_work", sqlite_where=_AT_WORK, postgresql_where=_AT_WORK)
        table.drop_index("ix_tuning_jobs_state_created_at")
        table.drop_index("ix_tuning_jobs_created_at_id")
        table.drop_index("ix_tuning_jobs_adapter")

    op.drop_table("tuning_jobs")
    op.drop_table("tuning_datasets")
    with op.batch_alter_table("files") as table:
        table.drop_index("ix_files_digest")
        table.drop_index("ix_files_created_at_id")

    op.drop_table("files")
