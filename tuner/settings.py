"""The tuner's settings: flags over environment over ``ostler.toml``."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from monitors.money.pricing import PricedSettings
from monitors.settings import StorageSettings


class TunerSettings(StorageSettings, PricedSettings):
    """What the tuner needs to know. Each is ``OSTLER_<NAME>`` in the environment."""

    url: str = Field("http://127.0.0.1:8080", description="The gateway's address.")
    api_key: str = Field("", description="An admin key for it; empty is the one in `home`.", repr=False)
    base: str = Field("", description="Name of the base model whose adapters are tuned here.")
    base_model: str = Field("", description="Its folder or Hugging Face id, with weights and tokenizer.")
    max_lora_rank: int = Field(16, ge=1, description="Largest rank that the engine was started for.")
    max_model_len: int | None = Field(
        None, ge=1, description="Longest context of the engine; unset is the model's own."
    )
    tuner_host: str = Field("127.0.0.1", description="Address of the tuner's own /livez, /readyz and /metrics.")
    tuner_port: int = Field(8082, ge=0, le=65535, description="Port of these; 0 takes a free one.")
    tuner_name: str = Field("", description="What this tuner is called in the log; empty is the machine's name.")
    tuner_backend: Literal["process", "kubernetes"] = Field(
        "process", description="Where jobs are done: by processes of this machine, or each in a pod of a cluster."
    )
    tuner_job_template: Path | None = Field(
        None, description="File of the Kubernetes Job or Kubeflow TrainJob that each tuning job becomes (YAML)."
    )
    tuner_namespace: str = Field("", description="Kubernetes namespace of these; empty is the pod's own.")
    tuner_max_pods: int = Field(4, ge=1, description="How many of these there may be at once.")
    tuner_deadline_s: int | None = Field(
        None, ge=1, description="How long one may be active, seconds; a job at work that takes longer has failed."
    )
    tuner_claim_s: float = Field(
        300.0, gt=0, description="How long a pod may run until it has begun with its job, seconds."
    )
    tuner_ttl_s: int = Field(
        3600, ge=0, description="Until Kubernetes itself deletes one that has ended, if no tuner does, seconds."
    )
    tuner_device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to train.")
    tuner_processes: int = Field(1, ge=1, description="GPUs to train on at once; above 1 with `accelerate launch`.")
    tuner_threads: int | None = Field(None, ge=1, description="Threads of the CPU for training; unset is all cores.")
    tuner_memory_share: float | None = Field(
        None, gt=0, le=1, description="Share of the GPU's memory for training; unset is what is free."
    )
    tuner_sharing: Literal["none", "wait", "sleep"] = Field(
        "none", description="One GPU with an engine: wait for a quiet time, or put the engine to sleep in one."
    )
    tuner_quiet_s: float = Field(60.0, ge=0, description="How long the engines must have been idle to call it quiet.")
    tuner_replica: str = Field(
        "", description="The engine on its GPU, as `ostler replicas` calls it; empty is the only one of the base model."
    )
    tuner_sleep_last: bool = Field(
        default=False, description="Whether the only engine may be put to sleep, so that its clients wait meanwhile."
    )
    tuner_stop_s: float = Field(60.0, ge=0, description="How long a tuner that stops lets training finish its step.")
    tuner_lease_s: float = Field(60.0, gt=1, description="A job whose tuner is silent for that long goes to another.")
    tuner_retry_s: float = Field(
        15.0, ge=0, description="Pause before a job that broke off is tried again, seconds; six times that at last."
    )
    tuner_poll_s: float = Field(2.0, gt=0, description="Pause between looks for a job, seconds.")
    tuner_min_free_gib: float = Field(2.0, ge=0, description="Disk that must be free before a job begins, GiB.")
    tuner_engine_wait_s: float = Field(
        900.0, gt=0, description="How long a job waits for an engine that does not answer, or that is not put to sleep."
    )
    tuner_concurrency: int = Field(8, ge=1, description="The gate's own requests at the gateway at once.")
    retention_set: str = Field("", description="JSON lines of general skills for the gate; empty is the tuner's own.")
    refusal_set: str = Field(
        "", description="JSON lines that should be refused, for the gate; empty is the tuner's own."
    )
    teacher_url: str = Field("", description="OpenAI-compatible endpoint of a teacher that labels prompts.")
    teacher_model: str = Field("", description="Its model.")
    teacher_api_key: str = Field("", description="Its API key.", repr=False)

    @field_validator("url", "teacher_url")
    @classmethod
    def _http(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value.rstrip("/")

    @property
    def work(self) -> Path:
        """The folder of the jobs' workspaces."""
        return self.cache / "tuner"

    @property
    def key(self) -> str:
        """The gateway's admin key, from the settings or from this machine's file; empty if there is none."""
        file = self.home / "admin.key"
        return self.api_key or (file.read_text().strip() if file.exists() else "")
