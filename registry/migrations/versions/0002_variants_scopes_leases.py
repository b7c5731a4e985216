"""Canary, shadow and fallback; archived versions; scopes, limits and rotation of keys; leases and shared use."""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_KEYS = sa.table(
    "api_keys",
    sa.column("role", sa.String),
    sa.column("scopes", sa.JSON),
    sa.column("revoked_at", sa.DateTime(timezone=True)),
)
_SCOPES = {"admin": ["admin"], "client": ["inference", "feedback"]}


def _moment(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=True)


def upgrade() -> None:
    """Widen the tables; what is there keeps its meaning."""
    with op.batch_alter_table("revisions") as table:
        table.add_column(sa.Column("canary", sa.Integer(), nullable=True))
        table.add_column(sa.Column("canary_weight", sa.Float(), nullable=True))
        table.add_column(sa.Column("shadow", sa.String(16), nullable=True))
        table.add_column(sa.Column("shadow_share", sa.Float(), nullable=True))
        table.add_column(sa.Column("fallback", sa.JSON(), nullable=False, server_default="[]"))
    with op.batch_alter_table("revisions") as table:
        table.alter_column("fallback", existing_type=sa.JSON(), existing_nullable=False, server_default=None)
    with op.batch_alter_table("versions") as table:
        table.add_column(_moment("archived_at"))
    with op.batch_alter_table("audit") as table:
        table.add_column(sa.Column("before", sa.JSON(), nullable=True))
        table.add_column(sa.Column("after", sa.JSON(), nullable=True))
    op.create_table(
        "leases",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("holder", sa.String(120), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "gateway_use",
        sa.Column("gateway", sa.String(120), primary_key=True),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("use", sa.JSON(), nullable=False),
    )
    _upgrade_keys()


def _upgrade_keys() -> None:
    with op.batch_alter_table("api_keys") as table:
        table.add_column(sa.Column("previous_hash", sa.String(64), nullable=True))
        table.add_column(_moment("previous_until"))
        table.add_column(sa.Column("scopes", sa.JSON(), nullable=True))
        table.add_column(sa.Column("requests_per_minute", sa.Integer(), nullable=True))
        table.add_column(sa.Column("tokens_per_minute", sa.Integer(), nullable=True))
        table.add_column(sa.Column("concurrent_requests", sa.Integer(), nullable=True))
        table.add_column(sa.Column("monthly_budget", sa.Float(), nullable=True))
        table.create_unique_constraint("uq_api_keys_previous_hash", ["previous_hash"])
    for role, scopes in _SCOPES.items():
        op.execute(_KEYS.update().where(_KEYS.c.role == role).values(scopes=scopes))
    with op.batch_alter_table("api_keys") as table:
        table.alter_column("scopes", existing_type=sa.JSON(), nullable=False)
        table.drop_column("role")


def downgrade() -> None:
    """Go back; what the older schema cannot say is lost, and a key that would open more for that is revoked."""
    with op.batch_alter_table("api_keys") as table:
        table.add_column(sa.Column("role", sa.String(20), nullable=False, server_default="client"))
    admins, clients = (sa.cast(_KEYS.c.scopes, sa.String).like(f'%"{scope}"%') for scope in ("admin", "inference"))
    op.execute(_KEYS.update().where(admins).values(role="admin"))
    narrower = ~admins & ~clients & _KEYS.c.revoked_at.is_(None)
    op.execute(_KEYS.update().where(narrower).values(revoked_at=datetime.now(UTC)))
    with op.batch_alter_table("api_keys") as table:
        table.alter_column("role", existing_type=sa.String(20), existing_nullable=False, server_default=None)
        table.drop_constraint("uq_api_keys_previous_hash", type_="unique")
        for column in ("previous_hash", "previous_until", "scopes", "requests_per_minute", "tokens_per_minute"):
            table.drop_column(column)
        table.drop_column("concurrent_requests")
        table.drop_column("monthly_budget")
    op.drop_table("gateway_use")
    op.drop_table("leases")
    for name, columns in (
        ("audit", ("before", "after")),
        ("versions", ("archived_at",)),
        ("revisions", ("canary", "canary_weight", "shadow", "shadow_share", "fallback")),
    ):
        with op.batch_alter_table(name) as table:
            for column in columns:
                table.drop_column(column)
