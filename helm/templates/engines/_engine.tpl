{{/* vLLM's arguments for a pool: the same choices that `ostler up` makes. `root`, `pool`. */}}
{{- define "ostler.engineArgs" -}}
{{- $pool := .pool }}
{{- $args := list "--model" $pool.model "--served-model-name" $pool.base "--host" .root.Values.listenAddress "--port" "8000" }}
{{- $args = concat $args (list "--enable-lora" "--max-loras" ($pool.maxLoras | int | toString) "--max-cpu-loras" ($pool.slots | int | toString)) }}
{{- $args = concat $args (list "--max-lora-rank" ($pool.maxLoraRank | int | toString)) }}
{{- $args = concat $args (list "--disable-uvicorn-access-log" "--disable-fastapi-docs" "--scheduling-policy" "priority") }}
{{- $args = concat $args (list "--shutdown-timeout" ($pool.drainSeconds | int | toString)) }}
{{- if eq $pool.device "cpu" }}{{ $args = concat $args (list "--enforce-eager" "--dtype" "float32") }}{{ end }}
{{- if gt (int $pool.gpus) 1 }}{{ $args = concat $args (list "--tensor-parallel-size" ($pool.gpus | int | toString)) }}{{ end }}
{{- if $pool.maxModelLen }}{{ $args = concat $args (list "--max-model-len" ($pool.maxModelLen | int | toString)) }}{{ end }}
{{- if $pool.gpuMemoryUtilization }}{{ $args = concat $args (list "--gpu-memory-utilization" (toString $pool.gpuMemoryUtilization)) }}{{ end }}
{{- $cache := eq $pool.device "cpu" | ternary ($pool.kvCacheGiB | default 1) $pool.kvCacheGiB }}
{{- if $cache }}{{ $args = concat $args (list "--kv-cache-memory-bytes" (mulf $cache 1073741824 | int64 | toString)) }}{{ end }}
{{- if .root.Values.agent.enabled }}{{ $args = concat $args (list "--middleware" "engine_guard.LoopbackOnly") }}{{ end }}
{{- $given := concat $args (list "--tensor-parallel-size" "-tp" "--max-model-len" "--gpu-memory-utilization" "--kv-cache-memory-bytes") }}
{{- include "ostler.checkFlags" (dict "pool" $pool "given" $given) }}
{{- toYaml (concat $args $pool.extraArgs) }}
{{- end }}

{{/* Flags that contradict what the chart makes around vLLM, and why; `*` stands for all that begin so. */}}
{{- define "ostler.refusedFlags" -}}
"--pipeline-parallel-size": &gpus needs GPUs that the pod does not ask for; gpus says over how many the model is split
"-pp": *gpus
"--prefill-context-parallel-size": *gpus
"-pcp": *gpus
"--data-parallel*": &copies needs GPUs that the pod does not ask for; replicas says how many engines there are
"-dp*": *copies
"--nnodes": &machines goes over several machines, and an engine is one pod
"-n": *machines
"--node-rank": *machines
"-r": *machines
"--headless": &http takes the HTTP away by which gateways and probes ask
"--grpc": *http
"--uds": *http
"--ssl-*": has vLLM speak TLS, and gateways, agents and probes speak plain HTTP with it
"--api-key": wants a key of gateways and agents, which have none for vLLM
"--root-path": puts another path before those that gateways, agents and probes ask
"--config": holds flags that the chart cannot see; give them one by one
{{- end }}

{{/* Refuses `extraArgs` of the `pool` that are `given` already or refused. vLLM takes the beginning of a name for the name. */}}
{{- define "ostler.checkFlags" -}}
{{- $given := .given }}
{{- $at := printf "engines.pools: extraArgs of pool %q" .pool.name }}
{{- $refused := include "ostler.refusedFlags" . | fromYaml }}
{{- range $word := .pool.extraArgs }}
{{- $said := regexReplaceAll "=.*$" $word "" }}
{{- $flag := regexReplaceAll "^--no-" ($said | replace "_" "-") "--" }}
{{- $begins := and (hasPrefix "--" $flag) (gt (len $flag) 4) }}
{{- range $given }}
{{- if and (hasPrefix "-" .) (or (eq . $flag) (and $begins (hasPrefix $flag .))) }}{{ fail (printf "%s: %s is given by the chart; another value says it" $at $word) }}{{ end }}
{{- end }}
{{- range $name, $why := $refused }}
{{- $family := and (hasSuffix "*" $name) (hasPrefix (trimSuffix "*" $name) $flag) }}
{{- if or $family (eq $name $flag) (and $begins (hasPrefix $flag $name)) }}{{ fail (printf "%s: %s %s" $at $said $why) }}{{ end }}
{{- end }}
{{- end }}
{{- range .pool.extraEnv }}
{{- if eq .name "VLLM_API_KEY" }}{{ fail (printf "engines.pools: extraEnv of pool %q: %s %s" $.pool.name .name (index $refused "--api-key")) }}{{ end }}
{{- end }}
{{- end }}

{{/* What vLLM is told by its environment. What it and its compilers write goes to the mounted folders. */}}
{{- define "ostler.engineEnv" -}}
- name: VLLM_ALLOW_RUNTIME_LORA_UPDATING
  value: "True"
- name: VLLM_NO_USAGE_STATS
  value: "1"
- name: DO_NOT_TRACK
  value: "1"
- name: HOME
  value: /var/lib/ostler
- name: USER
  value: ostler
- name: XDG_CACHE_HOME
  value: /var/lib/ostler/cache
- name: XDG_CONFIG_HOME
  value: /var/lib/ostler/config
- name: TRITON_CACHE_DIR
  value: /var/lib/ostler/cache/triton
- name: HF_HOME
  value: /var/lib/ostler/models
{{- if hasPrefix "/" .pool.model }}
- name: HF_HUB_OFFLINE
  value: "1"
{{- end }}
{{- if eq .pool.device "cpu" }}
# As many threads as CPUs were asked for; left alone, it binds itself to all cores of the node but one.
- name: VLLM_CPU_OMP_THREADS_BIND
  value: nobind
- name: OMP_NUM_THREADS
  valueFrom:
    resourceFieldRef:
      resource: requests.cpu
      divisor: "1"
{{- end }}
{{- if .root.Values.agent.enabled }}
- name: PYTHONPATH
  value: /etc/ostler/engine
- name: OSTLER_ENGINE_DRAIN_FILE
  value: {{ include "ostler.engineDrainFile" . }}
{{- end }}
{{- include "ostler.hubToken" .root | nindent 0 }}
{{- end }}

{{/* What preStop touches and the guard looks at. */}}
{{- define "ostler.engineDrainFile" -}}
/tmp/draining
{{- end }}

{{- define "ostler.engineContainer" -}}
{{- $pool := .pool }}
name: engine
{{ include "ostler.container" (dict "root" .root "image" $pool.image "foreign" (ne $pool.device "cpu")) }}
command: [python3, -m, vllm.entrypoints.openai.api_server]
args:
  {{- include "ostler.engineArgs" . | nindent 2 }}
env:
  {{- include "ostler.env" (dict "own" (include "ostler.engineEnv" .) "extra" $pool.extraEnv "at" (printf "engines.pools: extraEnv of pool %q" $pool.name)) | nindent 2 }}
ports:
  - name: http
    containerPort: 8000
lifecycle:
  preStop:
    exec:
      # The guard turns away what is new from then on. vLLM, told to end, would answer 500 to it and say that it is well.
      command: [sh, -c, {{ printf "touch %s; sleep %d" (include "ostler.engineDrainFile" .) (int $pool.drainDelaySeconds) | quote }}]
startupProbe:
  httpGet:
    path: /health
    port: http
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: {{ div (add (int $pool.startupSeconds) 4) 5 }}
livenessProbe:
  httpGet:
    path: /health
    port: http
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 6
readinessProbe:
  httpGet:
    path: /health
    port: http
  periodSeconds: 5
  timeoutSeconds: 5
resources:
  {{- $disks := list (include "ostler.engineTmpSize" .) $pool.workSize }}
  {{- if eq $pool.modelCache.type "emptyDir" }}{{ $disks = append $disks $pool.modelCache.size }}{{ end }}
  {{- include "ostler.resources" (merge (dict "disks" $disks) $pool) | nindent 2 }}
volumeMounts:
  {{- include "ostler.workMounts" .root | nindent 2 }}
  - name: models
    mountPath: /var/lib/ostler/models
  - name: shm
    mountPath: /dev/shm
  {{- if .root.Values.agent.enabled }}
  - name: versions
    mountPath: /var/lib/ostler/versions
    readOnly: true
  - name: engine-files
    mountPath: /etc/ostler/engine
    readOnly: true
  {{- else }}
  {{- include "ostler.artifactMount" .root | nindent 2 }}
    readOnly: true
  {{- end }}
{{- end }}

{{- define "ostler.agentEnv" -}}
- name: OSTLER_HOME
  value: /var/lib/ostler
- name: OSTLER_LOG_LEVEL
  value: {{ .Values.logLevel }}
- name: OSTLER_AGENT_HOST
  value: {{ .Values.listenAddress | quote }}
- name: OSTLER_AGENT_CACHE
  value: /var/lib/ostler/versions
- name: OSTLER_AGENT_CACHE_GIB
  value: {{ .Values.agent.cacheGiB | toString | quote }}
{{- include "ostler.artifacts" . | nindent 0 }}
{{- include "ostler.agentToken" . | nindent 0 }}
{{- end }}

{{/* The size of an engine's volume for versions: the agent keeps to its cap, which lies well below this. */}}
{{- define "ostler.versionsSize" -}}
{{ add (ceil (mulf 1.25 .Values.agent.cacheGiB)) 1 }}Gi
{{- end }}

{{/* An engine's /tmp: vLLM's sockets. What its compilers make goes to its state, which has the size that the values say. */}}
{{- define "ostler.engineTmpSize" -}}
1Gi
{{- end }}

{{/* What an agent writes beside versions. */}}
{{- define "ostler.agentWorkSize" -}}
128Mi
{{- end }}

{{/* The agent. Its readiness asks for its engine, so it has no startup probe: the engine starts after it. */}}
{{- define "ostler.agentContainer" -}}
{{- $agent := .root.Values.agent }}
name: agent
{{ include "ostler.container" (dict "root" .root "image" $agent.image) }}
args: [agent]
env:
  {{- include "ostler.env" (dict "own" (include "ostler.agentEnv" .root) "extra" $agent.extraEnv "at" "agent.extraEnv") | nindent 2 }}
ports:
  - name: agent
    containerPort: 8083
livenessProbe:
  httpGet:
    path: /livez
    port: agent
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet:
    path: /readyz
    port: agent
  periodSeconds: 5
  timeoutSeconds: 5
resources:
  {{- $own := include "ostler.agentWorkSize" . }}
  {{- include "ostler.resources" (dict "resources" $agent.resources "disks" (list (include "ostler.versionsSize" .root) $own $own)) | nindent 2 }}
volumeMounts:
  - name: agent-tmp
    mountPath: /tmp
  - name: agent-state
    mountPath: /var/lib/ostler
  - name: versions
    mountPath: /var/lib/ostler/versions
  {{- include "ostler.artifactMount" .root | nindent 2 }}
{{- end }}

{{- define "ostler.enginePod" -}}
{{- $pool := .pool }}
{{- $agent := .root.Values.agent }}
{{- $sidecar := semverCompare ">=1.29-0" .root.Capabilities.KubeVersion.Version }}
{{- include "ostler.pod" . }}
serviceAccountName: {{ include "ostler.serviceAccount" (dict "root" .root "component" "engine" "account" .root.Values.engines.serviceAccount) }}
automountServiceAccountToken: false
# Delay and drain, and half a minute for vLLM's own end.
terminationGracePeriodSeconds: {{ add $pool.drainDelaySeconds $pool.drainSeconds 30 }}
{{- with $pool.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- include "ostler.placement" (dict "values" $pool "selector" .selector) | nindent 0 }}
{{- if and $agent.enabled $sidecar }}
initContainers:
  - {{- include "ostler.agentContainer" . | nindent 4 }}
    restartPolicy: Always
{{- end }}
containers:
  - {{- include "ostler.engineContainer" . | nindent 4 }}
  {{- if and $agent.enabled (not $sidecar) }}
  - {{- include "ostler.agentContainer" . | nindent 4 }}
  {{- end }}
volumes:
  - name: tmp
    emptyDir:
      sizeLimit: {{ include "ostler.engineTmpSize" . }}
  - name: state
    emptyDir:
      sizeLimit: {{ $pool.workSize }}
  - name: shm
    emptyDir:
      medium: Memory
      sizeLimit: {{ $pool.shmSize }}
  {{- if ne $pool.modelCache.type "claimPerReplica" }}
  - name: models
    {{- include "ostler.modelSource" $pool.modelCache | nindent 4 }}
  {{- end }}
  {{- if $agent.enabled }}
  {{- range list "agent-tmp" "agent-state" }}
  - name: {{ . }}
    emptyDir:
      sizeLimit: {{ include "ostler.agentWorkSize" $ }}
  {{- end }}
  - name: versions
    emptyDir:
      sizeLimit: {{ include "ostler.versionsSize" .root }}
  - name: engine-files
    configMap:
      name: {{ include "ostler.fullname" .root }}-engine-files
  {{- end }}
  {{- include "ostler.artifactVolume" .root | nindent 2 }}
{{- end }}
