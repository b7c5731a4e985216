"""Secrets of API keys that rotations have replaced for good, and keys that open the metrics alone.

The program before has a place for neither, and cannot read a key with a scope that it does not know. On the way back a
retired secret becomes a revoked key of its own, which that program refuses to make a key again, and the scope `metrics`
goes. A key that has no other is left without any, and so opens nothing; on the way forwards it has `metrics` again.
"""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_METRICS = "metrics"
_MOMENT = sa.DateTime(timezone=True)
_KEYS = sa.table(
    "api_keys",
    *(sa.column(name, sa.String) for name in ("id", "name", "hash", "hint", "created_by")),
    sa.column("created_at", _MOMENT),
    sa.column("revoked_at", _MOMENT),
    sa.column("scopes", sa.JSON),
)
_RETIRED = sa.table("retired_secrets", sa.column("hash", sa.String), sa.column("key_id", sa.String))


def upgrade() -> None:
    """Create the secrets' table, and give back its scope to a key that a way back left without any."""
    op.create_table(
        "retired_secrets",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.String(length=24), nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name="fk_retired_secrets_key_id_api_keys"),
        sa.PrimaryKeyConstraint("hash", name="pk_retired_secrets"),
    )
    for key in _keys():
        if not key.scopes:
            _set_scopes(key, [_METRICS])


def downgrade() -> None:
    """Drop it again, with no secret opening anything that it did not open before."""
    retired = op.get_bind().execute(sa.select(_RETIRED.c.hash, _KEYS).join(_KEYS, _KEYS.c.id == _RETIRED.c.key_id))
    if revoked := [_revoked(row) for row in retired.mappings()]:
        op.bulk_insert(_KEYS, revoked)
    op.drop_table("retired_secrets")
    for key in _keys():
        if _METRICS in key.scopes:
            _set_scopes(key, [scope for scope in key.scopes if scope != _METRICS])


def _keys() -> list[Any]:
    return [*op.get_bind().execute(sa.select(_KEYS.c.id, _KEYS.c.scopes))]


def _set_scopes(key: Any, scopes: list[str]) -> None:
    op.execute(_KEYS.update().where(_KEYS.c.id == key.id).values(scopes=scopes))


def _revoked(secret: Any) -> dict[str, Any]:
    """A key of a retired secret."""
    return {
        "id": f"key_{secret[_RETIRED.c.hash][:16]}",
        "name": f"retired secret of {secret[_KEYS.c.id]}",
        "hash": secret[_RETIRED.c.hash],
        "hint": "...",
        "created_by": secret[_KEYS.c.created_by],
        "created_at": secret[_KEYS.c.created_at],
        "revoked_at": datetime.now(UTC),
        "scopes": secret[_KEYS.c.scopes],
    }
