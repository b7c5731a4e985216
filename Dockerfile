# Ostler's images, one target each: gateway, monitor, tuner, agent and engine-cpu. See docs/images.md.
#
#   docker build --target gateway --tag ostler/gateway:0.1.0 .
#
# The base is named by its tag, because a digest names one build of it for one moment. Pin what you release:
#   --build-arg PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:...
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# Packages are installed from here into an environment that has no pip itself.
FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
RUN python3 -m venv /opt/build \
    && python3 -m venv --without-pip /opt/venv \
    && mkdir /opt/ostler
ENV PIP="/opt/build/bin/pip --python /opt/venv/bin/python3"
WORKDIR /source

# Ostler itself, as the wheel that is released.
FROM build AS wheel
RUN /opt/build/bin/pip install setuptools==78.1.1
COPY pyproject.toml README.md LICENSE ./
COPY agent agent
COPY demo demo
COPY gateway gateway
COPY monitors monitors
COPY ostler ostler
COPY registry registry
COPY tuner tuner
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .

FROM build AS build-gateway
COPY requirements/gateway.lock requirements/
RUN ${PIP} install --no-deps -r requirements/gateway.lock
COPY --from=wheel /wheels /wheels
RUN ${PIP} install --no-deps /wheels/*.whl && ln -s /opt/venv/lib/python3.*/site-packages/demo /opt/ostler/demo

FROM build AS build-monitor
COPY requirements/monitor.lock requirements/
RUN ${PIP} install --no-deps -r requirements/monitor.lock
COPY --from=wheel /wheels /wheels
RUN ${PIP} install --no-deps /wheels/*.whl

# torch comes first and by itself, as in requirements/install.sh; its general build has CUDA.
FROM build AS build-tuner
RUN ${PIP} install torch==2.13.0
COPY requirements/tuner.lock requirements/
RUN ${PIP} install --no-deps -r requirements/tuner.lock
COPY --from=wheel /wheels /wheels
RUN ${PIP} install --no-deps /wheels/*.whl && ln -s /opt/venv/lib/python3.*/site-packages/demo /opt/ostler/demo

FROM build AS build-agent
COPY requirements/agent.lock requirements/
RUN ${PIP} install --no-deps -r requirements/agent.lock
COPY --from=wheel /wheels /wheels
RUN ${PIP} install --no-deps /wheels/*.whl

# TORCH_INDEX may name an index of CPU builds of torch; without one it is pip's own choice, which serves, but is larger.
FROM build AS build-engine-cpu
ARG TORCH_INDEX=
RUN if [ -n "${TORCH_INDEX}" ]; then export PIP_EXTRA_INDEX_URL="${TORCH_INDEX}"; fi \
    && ${PIP} install torch==2.13.0
COPY requirements/engine-cpu.lock requirements/
RUN ${PIP} install --no-deps -r requirements/engine-cpu.lock
COPY --from=wheel /wheels /wheels
RUN ${PIP} install --no-deps /wheels/*.whl && ln -s /opt/venv/lib/python3.*/site-packages/demo /opt/ostler/demo

# What all images have: Python without pip, a user, and tini, which as process 1 reaps what children leave behind.
# Debian's packages are not pinned: the base's date says which there are, and a fix should come in with a rebuild.
FROM ${PYTHON_IMAGE} AS runtime
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* /usr/local/bin/pip* /usr/local/lib/python3.*/site-packages/* \
        /usr/local/lib/python3.*/ensurepip /usr/lib/python3.*/ensurepip /usr/share/python-wheels \
    && groupadd --gid 10001 ostler \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/ostler --no-create-home --shell /usr/sbin/nologin ostler \
    && install --directory --owner 10001 --group 10001 \
        /etc/ostler /var/lib/ostler /var/lib/ostler/models /var/lib/ostler/objects /var/lib/ostler/versions
COPY deploy/healthcheck.py /opt/ostler/
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/var/lib/ostler \
    XDG_CACHE_HOME=/var/lib/ostler/cache \
    XDG_CONFIG_HOME=/var/lib/ostler/config \
    HF_HOME=/var/lib/ostler/models
ARG VERSION=0.1.0
ARG REVISION=
ARG SOURCE=
LABEL org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.source="${SOURCE}" \
    org.opencontainers.image.licenses="Apache-2.0"
# A settings file mounted as /etc/ostler/ostler.toml is read.
WORKDIR /etc/ostler
STOPSIGNAL SIGTERM

FROM runtime AS gateway
LABEL org.opencontainers.image.title="ostler gateway"
COPY --from=build-gateway /opt/venv /opt/venv
COPY --from=build-gateway /opt/ostler /opt/ostler
ENV OSTLER_HOME=/var/lib/ostler OSTLER_HOST=0.0.0.0
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --start-period=30s CMD ["python3", "/opt/ostler/healthcheck.py", "OSTLER_PORT", "8080", "/livez"]
ENTRYPOINT ["tini", "--", "ostler"]
CMD ["gateway"]

FROM runtime AS monitor
LABEL org.opencontainers.image.title="ostler monitor"
COPY --from=build-monitor /opt/venv /opt/venv
ENV OSTLER_HOME=/var/lib/ostler OSTLER_MONITOR_HOST=0.0.0.0 DO_NOT_TRACK=1
USER 10001:10001
EXPOSE 8081
HEALTHCHECK --start-period=60s CMD ["python3", "/opt/ostler/healthcheck.py", "OSTLER_MONITOR_PORT", "8081", "/livez"]
ENTRYPOINT ["tini", "--", "ostler"]
CMD ["monitor"]

# On GPUs TRL's loss is a Triton kernel, and Triton compiles what launches a kernel where it runs: with a C compiler and
# Python's headers, which are the base's own.
FROM runtime AS tuner
LABEL org.opencontainers.image.title="ostler tuner"
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build-tuner /opt/venv /opt/venv
COPY --from=build-tuner /opt/ostler /opt/ostler
ENV OSTLER_HOME=/var/lib/ostler OSTLER_TUNER_HOST=0.0.0.0
USER 10001:10001
EXPOSE 8082
HEALTHCHECK --start-period=60s CMD ["python3", "/opt/ostler/healthcheck.py", "OSTLER_TUNER_PORT", "8082", "/livez"]
ENTRYPOINT ["tini", "--", "ostler"]
CMD ["tuner"]

FROM runtime AS agent
LABEL org.opencontainers.image.title="ostler agent"
COPY --from=build-agent /opt/venv /opt/venv
ENV OSTLER_HOME=/var/lib/ostler OSTLER_AGENT_HOST=0.0.0.0 OSTLER_AGENT_CACHE=/var/lib/ostler/versions
USER 10001:10001
EXPOSE 8083
HEALTHCHECK --start-period=30s CMD ["python3", "/opt/ostler/healthcheck.py", "OSTLER_AGENT_PORT", "8083", "/livez"]
ENTRYPOINT ["tini", "--", "ostler"]
CMD ["agent"]

# vLLM for CPUs, for trying out. Like vLLM's own image it takes vLLM's flags; without any it serves the demo's model.
# torch must not compile: that needs a C++ compiler, and the first request for log probabilities would end the engine.
FROM runtime AS engine-cpu
LABEL org.opencontainers.image.title="ostler engine for CPUs"
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libnuma1 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build-engine-cpu /opt/venv /opt/venv
COPY --from=build-engine-cpu /opt/ostler /opt/ostler
COPY helm/files/engine_guard.py /etc/ostler/engine/
ENV PYTHONPATH=/etc/ostler/engine \
    TORCH_COMPILE_DISABLE=1 \
    VLLM_ALLOW_RUNTIME_LORA_UPDATING=True \
    VLLM_NO_USAGE_STATS=1 \
    DO_NOT_TRACK=1
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --start-period=300s --timeout=10s CMD ["python3", "/opt/ostler/healthcheck.py", "ENGINE_PORT", "8000", "/health"]
ENTRYPOINT ["tini", "--", "python3", "-m", "vllm.entrypoints.openai.api_server"]
CMD ["--model", "/opt/ostler/demo/base", "--served-model-name", "ostler-tiny", "--port", "8000", \
    "--enable-lora", "--max-loras", "4", "--max-cpu-loras", "8", "--max-lora-rank", "16", "--max-model-len", "512", \
    "--kv-cache-memory-bytes", "1073741824", "--enforce-eager", "--dtype", "float32", \
    "--scheduling-policy", "priority", \
    "--disable-uvicorn-access-log", "--disable-fastapi-docs", "--shutdown-timeout", "20", \
    "--middleware", "engine_guard.LoopbackOnly"]
