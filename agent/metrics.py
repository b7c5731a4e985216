"""The agent's metrics, for Prometheus; each declared once. No label holds a version's name."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class AgentMetrics:
    """What lies in the cache, what came and went, and whether what the agent needs answers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.cache_bytes = Gauge("ostler_agent_cache_bytes", "Bytes of the cached versions.", registry=self.registry)
        self.cache_limit = Gauge(
            "ostler_agent_cache_limit_bytes", "What the cached versions may have together.", registry=self.registry
        )
        self.cached = Gauge("ostler_agent_cached_versions", "Cached versions, by content.", registry=self.registry)
        self.fetches = self._counter("ostler_agent_fetches", "Fetches from the artifact store that succeeded.")
        self.fetched_bytes = self._counter("ostler_agent_fetched_bytes", "Bytes that came from the artifact store.")
        self.fetch_failures = Counter(
            "ostler_agent_fetch_failures", "Fetches that failed, by why.", ("reason",), registry=self.registry
        )
        self.fetch_seconds = self._histogram("ostler_agent_fetch_seconds", "How long fetches took that succeeded.")
        self.evictions = self._counter("ostler_agent_evictions", "Versions that made room for others.")
        self.loads = Counter(
            "ostler_agent_loads",
            "Loads that gateways asked for, by what came of them.",
            ("outcome",),
            registry=self.registry,
        )
        self.load_seconds = self._histogram("ostler_agent_load_seconds", "How long loads took, with their fetch.")
        self.unloads = self._counter("ostler_agent_unloads", "Versions that gateways had unloaded.")
        self.store_reachable = Gauge(
            "ostler_agent_store_reachable", "1 while the artifact store answers.", registry=self.registry
        )
        self.engine_up = Gauge("ostler_agent_engine_up", "1 while vLLM answers.", registry=self.registry)

    def _counter(self, name: str, help: str) -> Counter:
        return Counter(name, help, registry=self.registry)

    def _histogram(self, name: str, help: str) -> Histogram:
        return Histogram(name, help, buckets=_SECONDS, registry=self.registry)
