"""What operators do, all under /admin/v1: push versions, change what is live, hand out keys, and look at it all."""

from gateway.admin.adapters import AdapterController, VersionPatch
from gateway.admin.audit import AuditController
from gateway.admin.decisions import DecisionController
from gateway.admin.deployments import DeploymentController, DeploymentPatch, RollbackOrder
from gateway.admin.keys import KeyController, KeyPatch, NewKey, RotationOrder, create_key
from gateway.admin.replicas import ReplicaController
from gateway.admin.uploads import sweep_uploads

CONTROLLERS = (
    AdapterController,
    DeploymentController,
    KeyController,
    ReplicaController,
    AuditController,
    DecisionController,
)
BODIES = (VersionPatch, DeploymentPatch, RollbackOrder, NewKey, KeyPatch, RotationOrder)

__all__ = ["BODIES", "CONTROLLERS", "NewKey", "create_key", "sweep_uploads"]
