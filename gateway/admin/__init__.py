"""What operators do, all under /admin/v1: push versions, change what is live, hand out keys, and look at it all."""

from gateway.admin.adapters import AdapterController, VersionPatch
from gateway.admin.audit import AuditController
from gateway.admin.costs import CostController
from gateway.admin.datasets import DatasetController
from gateway.admin.decisions import DecisionController
from gateway.admin.deployments import DeploymentController, DeploymentPatch, RollbackOrder
from gateway.admin.drift import DriftController
from gateway.admin.feedback import FeedbackController
from gateway.admin.golden import EvaluationOrder, GoldenController
from gateway.admin.keys import KeyController, KeyPatch, NewKey, RotationOrder, create_key
from gateway.admin.loop import FreezeController, ReasonOrder, StopController
from gateway.admin.monitoring import MonitoringController, MonitoringPatch
from gateway.admin.policies import PolicyController, PolicyPatch
from gateway.admin.quality import QualityController
from gateway.admin.replays import PolicyCheck, ReplayController
from gateway.admin.replicas import ReplicaController, SleepOrder, WakeOrder
from gateway.admin.requests import RequestController, UsageController
from gateway.admin.uploads import sweep_uploads
from gateway.admin.versions import VersionController
from gateway.admin.webhooks import DeliveryController, NewWebhook, WebhookController, WebhookPatch
from gateway.admin.why import WhyController

CONTROLLERS = (
    AdapterController,
    VersionController,
    DatasetController,
    DeploymentController,
    KeyController,
    ReplicaController,
    AuditController,
    DecisionController,
    CostController,
    FeedbackController,
    RequestController,
    UsageController,
    GoldenController,
    MonitoringController,
    PolicyController,
    ReplayController,
    StopController,
    FreezeController,
    WhyController,
    WebhookController,
    DeliveryController,
    QualityController,
    DriftController,
)
BODIES = (
    VersionPatch,
    DeploymentPatch,
    RollbackOrder,
    NewKey,
    KeyPatch,
    RotationOrder,
    EvaluationOrder,
    MonitoringPatch,
    PolicyPatch,
    PolicyCheck,
    ReasonOrder,
    NewWebhook,
    WebhookPatch,
    SleepOrder,
    WakeOrder,
)

__all__ = ["BODIES", "CONTROLLERS", "NewKey", "create_key", "sweep_uploads"]
