"""Policies, what stops automatic change, the closed loop's state, approvals, and webhooks."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of the closed loop, and have revisions name the decision that they follow from."""
    op.create_table(
        "approvals",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("adapter", sa.String(length=63), nullable=False),
        sa.Column("cycle", sa.Integer(), nullable=False),
        sa.Column("wanted", sa.String(length=20), nullable=False),
        sa.Column("decision", sa.BigInteger(), nullable=False),
        sa.Column("answer", sa.String(length=10), nullable=False),
        sa.Column("actor", sa.String(length=120), nullable=False),
        sa.Column("reason", sa.String(length=1000), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_approvals"),
        sa.UniqueConstraint("adapter", "cycle", "wanted", name="uq_approvals_adapter_cycle_wanted"),
    )
    op.create_table(
        "loops",
        sa.Column("adapter", sa.String(length=63), nullable=False),
        sa.Column("state", sa.JSON(), nullable=True),
        sa.Column("tests", sa.JSON(), nullable=True),
        sa.Column("cursors", sa.JSON(), nullable=True),
        sa.Column("pending", sa.JSON(), nullable=True),
        sa.Column("verdict", sa.JSON(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("adapter", name="pk_loops"),
    )
    op.create_table(
        "stops",
        sa.Column("adapter", sa.String(length=63), nullable=False),
        sa.Column("actor", sa.String(length=120), nullable=False),
        sa.Column("reason", sa.String(length=1000), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("adapter", name="pk_stops"),
    )
    op.create_table(
        "teacher_labels",
        sa.Column("record_id", sa.String(length=32), nullable=False),
        sa.Column("adapter", sa.String(length=63), nullable=False),
        sa.Column("key_id", sa.String(length=24), nullable=False),
        sa.Column("prompt", sa.String(length=32), nullable=False),
        sa.Column("answer", sa.JSON(), nullable=True),
        sa.Column("cost", sa.Float(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("record_id", name="pk_teacher_labels"),
    )
    with op.batch_alter_table("teacher_labels") as table:
        table.create_index("ix_teacher_labels_adapter_created_at", ["adapter", "created_at"], unique=False)
        table.create_index("ix_teacher_labels_created_at", ["created_at"], unique=False)

    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("webhook", sa.String(length=32), nullable=False),
        sa.Column("source", sa.String(length=80), nullable=False),
        sa.Column("event", sa.String(length=40), nullable=False),
        sa.Column("body", sa.JSON(), nullable=True),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_deliveries"),
        sa.UniqueConstraint("webhook", "source", name="uq_webhook_deliveries_webhook_source"),
    )
    with op.batch_alter_table("webhook_deliveries") as table:
        table.create_index("ix_webhook_deliveries_state_next_at", ["state", "next_at"], unique=False)

    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("url", sa.String(length=2000), nullable=False),
        sa.Column("secret", sa.String(length=120), nullable=False),
        sa.Column("previous_secret", sa.String(length=120), nullable=False),
        sa.Column("previous_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("events", sa.JSON(), nullable=True),
        sa.Column("adapters", sa.JSON(), nullable=True),
        sa.Column("created_by", sa.String(length=120), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_webhooks"),
    )
    op.create_table(
        "policies",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("adapter_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("policy", sa.JSON(), nullable=False),
        sa.Column("actor", sa.String(length=120), nullable=False),
        sa.Column("reason", sa.String(length=1000), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name="fk_policies_adapter_id_adapters"),
        sa.PrimaryKeyConstraint("id", name="pk_policies"),
        sa.UniqueConstraint("adapter_id", "number", name="uq_policies_adapter_id_number"),
    )
    with op.batch_alter_table("adapters") as table:
        table.add_column(sa.Column("policy", sa.JSON(), nullable=True))

    with op.batch_alter_table("request_log") as table:
        table.add_column(sa.Column("intended", sa.Integer(), nullable=True))

    with op.batch_alter_table("revisions") as table:
        table.add_column(sa.Column("is_holdback", sa.Boolean(), server_default=sa.false(), nullable=False))
        table.add_column(sa.Column("decision", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    """Drop them again."""
    for name, columns in (("revisions", ("decision", "is_holdback")), ("request_log", ("intended",))):
        with op.batch_alter_table(name) as table:
            for column in columns:
                table.drop_column(column)
    with op.batch_alter_table("adapters") as table:
        table.drop_column("policy")
    for name in ("policies", "webhooks", "webhook_deliveries", "teacher_labels", "stops", "loops", "approvals"):
        op.drop_table(name)
