"""Usage, captured text, feedback, scores, tests, golden sets, drift, decisions, and how adapters are watched."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of what is watched, and widen those of requests and adapters."""
    op.create_table(
        "captures",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("adapter", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("variant", sa.String(), nullable=False),
        sa.Column("session", sa.String(length=32), nullable=True),
        sa.Column("end_user", sa.String(length=32), nullable=True),
        sa.Column("prompt", sa.JSON(), nullable=True),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("redactions", sa.Integer(), nullable=False),
        sa.Column("mean_logprob", sa.Float(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_captures"),
    )
    with op.batch_alter_table("captures") as table:
        table.create_index("ix_captures_adapter_version_created_at", ["adapter", "version", "created_at"], unique=False)
        table.create_index("ix_captures_created_at", ["created_at"], unique=False)
        table.create_index("ix_captures_end_user", ["end_user"], unique=False)
        table.create_index("ix_captures_request_id", ["request_id"], unique=False)
        table.create_index("ix_captures_session", ["session"], unique=False)

    op.create_table(
        "cost_rates",
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("pool", sa.String(length=255), nullable=False),
        sa.Column("money", sa.Float(), nullable=False),
        sa.Column("weighted_tokens", sa.Float(), nullable=False),
        sa.Column("unit_price", sa.Float(), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("hour", "pool", name="pk_cost_rates"),
    )
    op.create_table(
        "decisions",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("adapter", sa.String(length=63), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("outcome", sa.String(length=40), nullable=False),
        sa.Column("rule", sa.String(length=400), nullable=False),
        sa.Column("reason", sa.String(length=1000), nullable=False),
        sa.Column("inputs", sa.JSON(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_decisions"),
    )
    with op.batch_alter_table("decisions") as table:
        table.create_index("ix_decisions_adapter_id", ["adapter", "id"], unique=False)

    op.create_table(
        "drift_calibrations",
        sa.Column("adapter", sa.String(length=63), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("window_rows", sa.Integer(), nullable=False),
        sa.Column("reference", sa.String(length=64), nullable=False),
        sa.Column("columns", sa.JSON(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("adapter", "version", "window_rows", name="pk_drift_calibrations"),
    )
    op.create_table(
        "drift_runs",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("adapter", sa.String(length=63), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("window_start", sa.DateTime(timezone=True), nullable=True),
        sa.Column("window_end", sa.DateTime(timezone=True), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("reference_rows", sa.Integer(), nullable=False),
        sa.Column("reference", sa.String(length=20), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("missing", sa.Text(), nullable=True),
        sa.Column("columns", sa.JSON(), nullable=True),
        sa.Column("report", sa.String(length=64), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_drift_runs"),
        sa.UniqueConstraint("adapter", "version", "window_end", name="uq_drift_runs_adapter_version_window_end"),
    )
    with op.batch_alter_table("drift_runs") as table:
        table.create_index("ix_drift_runs_adapter_created_at", ["adapter", "created_at"], unique=False)

    op.create_table(
        "evidence",
        sa.Column("adapter", sa.String(length=63), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("scorer", sa.String(length=40), nullable=False),
        sa.Column("against", sa.String(length=96), nullable=False),
        sa.Column("observations", sa.BigInteger(), nullable=False),
        sa.Column("last_observation", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.JSON(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("adapter", "version", "scorer", "against", name="pk_evidence"),
    )
    _create_what_is_judged()
    _widen_what_is_there()


def _create_what_is_judged() -> None:
    op.create_table(
        "feedback",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("record_id", sa.String(length=32), nullable=False),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("key_id", sa.String(length=24), nullable=False),
        sa.Column("client_id", sa.String(length=128), nullable=True),
        sa.Column("adapter", sa.String(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("variant", sa.String(), nullable=True),
        sa.Column("session", sa.String(length=32), nullable=True),
        sa.Column("end_user", sa.String(length=32), nullable=True),
        sa.Column("thumb", sa.String(length=4), nullable=True),
        sa.Column("score", sa.Float(), nullable=True),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.Column("correction", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_feedback"),
        sa.UniqueConstraint("key_id", "client_id", name="uq_feedback_key_id_client_id"),
    )
    with op.batch_alter_table("feedback") as table:
        table.create_index("ix_feedback_adapter_created_at", ["adapter", "created_at"], unique=False)
        table.create_index("ix_feedback_created_at", ["created_at"], unique=False)
        table.create_index("ix_feedback_end_user", ["end_user"], unique=False)
        table.create_index("ix_feedback_record_id", ["record_id"], unique=False)
        table.create_index("ix_feedback_session", ["session"], unique=False)

    op.create_table(
        "golden_runs",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("batch", sa.String(length=32), nullable=False),
        sa.Column("adapter", sa.String(length=63), nullable=False),
        sa.Column("golden_set", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=255), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(length=40), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("results", sa.JSON(), nullable=True),
        sa.Column("items", sa.JSON(), nullable=True),
        sa.Column("requested_by", sa.String(length=120), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_golden_runs"),
    )
    with op.batch_alter_table("golden_runs") as table:
        table.create_index("ix_golden_runs_adapter_created_at", ["adapter", "created_at"], unique=False)
        table.create_index("ix_golden_runs_batch", ["batch"], unique=False)
        table.create_index("ix_golden_runs_state", ["state"], unique=False)

    op.create_table(
        "golden_sets",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("adapter", sa.String(length=63), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("scorers", sa.JSON(), nullable=True),
        sa.Column("note", sa.String(length=1000), nullable=False),
        sa.Column("created_by", sa.String(length=120), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_golden_sets"),
        sa.UniqueConstraint("adapter", "digest", name="uq_golden_sets_adapter_digest"),
        sa.UniqueConstraint("adapter", "number", name="uq_golden_sets_adapter_number"),
    )
    op.create_table(
        "monitor_cursors",
        sa.Column("job", sa.String(length=40), nullable=False),
        sa.Column("subject", sa.String(length=120), nullable=False),
        sa.Column("position", sa.String(length=200), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("job", "subject", name="pk_monitor_cursors"),
    )
    op.create_table(
        "monitor_windows",
        sa.Column("job", sa.String(length=40), nullable=False),
        sa.Column("subject", sa.String(length=120), nullable=False),
        sa.Column("window", sa.String(length=40), nullable=False),
        sa.Column("outcome", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("job", "subject", "window", name="pk_monitor_windows"),
    )
    op.create_table(
        "observations",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("adapter", sa.String(length=63), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("scorer", sa.String(length=40), nullable=False),
        sa.Column("against", sa.String(length=96), nullable=False),
        sa.Column("session", sa.String(length=160), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_observations"),
        sa.UniqueConstraint(
            "adapter",
            "version",
            "scorer",
            "against",
            "session",
            name="uq_observations_adapter_version_scorer_against_session",
        ),
    )
    op.create_index("ix_observations_session", "observations", ["session"])
    op.create_table(
        "replica_hours",
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("pool", sa.String(length=255), nullable=False),
        sa.Column("replica", sa.String(length=255), nullable=False),
        sa.Column("ready_s", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("hour", "pool", "replica", name="pk_replica_hours"),
    )
    op.create_table(
        "scores",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("record_id", sa.String(length=32), nullable=False),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("adapter", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("variant", sa.String(), nullable=False),
        sa.Column("session", sa.String(length=32), nullable=True),
        sa.Column("scorer", sa.String(length=40), nullable=False),
        sa.Column("against", sa.String(length=96), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("source", sa.String(length=20), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_scores"),
        sa.UniqueConstraint("record_id", "scorer", "against", name="uq_scores_record_id_scorer_against"),
    )
    with op.batch_alter_table("scores") as table:
        table.create_index("ix_scores_adapter_scorer_id", ["adapter", "scorer", "id"], unique=False)
        table.create_index("ix_scores_session", ["session"], unique=False)

    op.create_table(
        "usage_hours",
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("key_id", sa.String(length=24), nullable=False),
        sa.Column("pool", sa.String(length=255), nullable=False),
        sa.Column("adapter", sa.String(length=63), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("variant", sa.String(length=16), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("errors", sa.BigInteger(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("duration_s", sa.Float(), nullable=False),
        sa.Column("cost", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("hour", "key_id", "pool", "adapter", "version", "variant", name="pk_usage_hours"),
    )


def _widen_what_is_there() -> None:
    with op.batch_alter_table("adapters") as table:
        table.add_column(sa.Column("monitoring", sa.JSON(), nullable=True))

    with op.batch_alter_table("request_log") as table:
        table.add_column(sa.Column("pool", sa.String(), nullable=True))
        table.add_column(sa.Column("session", sa.String(length=32), nullable=True))
        table.add_column(sa.Column("end_user", sa.String(length=32), nullable=True))
        table.add_column(sa.Column("completion_id", sa.String(length=160), nullable=True))
        table.add_column(sa.Column("finish_reason", sa.String(), nullable=True))
        table.add_column(sa.Column("overhead_s", sa.Float(), nullable=True))
        table.drop_index("ix_request_log_adapter_version")
        table.create_index(
            "ix_request_log_adapter_version_started_at_id", ["adapter", "version", "started_at", "id"], unique=False
        )
        table.create_index("ix_request_log_key_id_started_at", ["key_id", "started_at"], unique=False)
        table.create_index("ix_request_log_completion_id", ["completion_id"], unique=False)
        table.create_index("ix_request_log_end_user", ["end_user"], unique=False)
        table.create_index("ix_request_log_session", ["session"], unique=False)


def downgrade() -> None:
    """Drop them again."""
    with op.batch_alter_table("request_log") as table:
        table.drop_index("ix_request_log_session")
        table.drop_index("ix_request_log_end_user")
        table.drop_index("ix_request_log_key_id_started_at")
        table.drop_index("ix_request_log_adapter_version_started_at_id")
        table.create_index("ix_request_log_adapter_version", ["adapter", "version"], unique=False)
        table.drop_index("ix_request_log_completion_id")
        table.drop_column("overhead_s")
        table.drop_column("finish_reason")
        table.drop_column("completion_id")
        table.drop_column("end_user")
        table.drop_column("session")
        table.drop_column("pool")

    with op.batch_alter_table("adapters") as table:
        table.drop_column("monitoring")

    _drop_what_is_new()


def _drop_what_is_new() -> None:
    op.drop_table("usage_hours")
    with op.batch_alter_table("scores") as table:
        table.drop_index("ix_scores_session")
        table.drop_index("ix_scores_adapter_scorer_id")

    op.drop_table("scores")
    op.drop_table("replica_hours")
    op.drop_index("ix_observations_session", "observations")
    op.drop_table("observations")
    op.drop_table("monitor_windows")
    op.drop_table("monitor_cursors")
    op.drop_table("golden_sets")
    with op.batch_alter_table("golden_runs") as table:
        table.drop_index("ix_golden_runs_state")
        table.drop_index("ix_golden_runs_adapter_created_at")

    op.drop_table("golden_runs")
    with op.batch_alter_table("feedback") as table:
        table.drop_index("ix_feedback_session")
        table.drop_index("ix_feedback_record_id")
        table.drop_index("ix_feedback_end_user")
        table.drop_index("ix_feedback_created_at")
        table.drop_index("ix_feedback_adapter_created_at")

    op.drop_table("feedback")
    op.drop_table("evidence")
    with op.batch_alter_table("drift_runs") as table:
        table.drop_index("ix_drift_runs_adapter_created_at")

    op.drop_table("drift_runs")
    op.drop_table("drift_calibrations")
    with op.batch_alter_table("decisions") as table:
        table.drop_index("ix_decisions_adapter_id")

    op.drop_table("decisions")
    op.drop_table("cost_rates")
    with op.batch_alter_table("captures") as table:
        table.drop_index("ix_captures_session")
        table.drop_index("ix_captures_request_id")
        table.drop_index("ix_captures_end_user")
        table.drop_index("ix_captures_created_at")
        table.drop_index("ix_captures_adapter_version_created_at")

    op.drop_table("captures")
