"""A dispatcher's metrics, beside the tuner's own."""

from prometheus_client import CollectorRegistry, Gauge


class ClusterMetrics:
    """What is in the cluster, and whether it can be asked."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.objects = Gauge(
            "ostler_tuning_cluster_objects", "Tuning jobs in the cluster, by how far.", ("state",), registry=registry
        )
        self.is_up = Gauge(
            "ostler_tuning_cluster_up", "1 while the cluster's API server is heard of.", registry=registry
        )
