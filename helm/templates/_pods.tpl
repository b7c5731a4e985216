{{/* What every pod has: `root`. */}}
{{- define "ostler.pod" -}}
enableServiceLinks: false
{{- include "ostler.pullSecrets" .root | nindent 0 }}
securityContext:
  {{- include "ostler.podSecurity" . | nindent 2 }}
{{- end }}

{{/* As the restricted Pod Security Standard has it: `root`, and the `user` of an image that needs its own. */}}
{{- define "ostler.podSecurity" -}}
runAsNonRoot: true
{{- with .user | default .root.Values.security }}
{{- if ne .runAsUser nil }}
runAsUser: {{ int64 .runAsUser }}
{{- end }}
{{- if ne .runAsGroup nil }}
runAsGroup: {{ int64 .runAsGroup }}
{{- end }}
{{- if ne .fsGroup nil }}
fsGroup: {{ int64 .fsGroup }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "ostler.pullSecrets" -}}
{{- with .Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* What every container has: `root` and `image`, `foreign` if that is none of Ostler's own. */}}
{{- define "ostler.container" -}}
image: {{ include "ostler.image" . }}
imagePullPolicy: {{ .root.Values.imagePullPolicy }}
securityContext:
  {{- include "ostler.containerSecurity" . | nindent 2 }}
{{- end }}

{{- define "ostler.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
{{- end }}

{{/* Where a pod may run: `values` of its component, and the `selector` that its spread counts. */}}
{{- define "ostler.placement" -}}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- $selector := .selector }}
{{- with .values.topologySpread }}
topologySpreadConstraints:
  {{- range . }}
  - {{- toYaml . | nindent 4 }}
    labelSelector:
      matchLabels:
        {{- $selector | nindent 8 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* What tells autoscalers of nodes that a pod may be moved: what its emptyDirs hold can be had again. */}}
{{- define "ostler.evictable" -}}
cluster-autoscaler.kubernetes.io/safe-to-evict: "true"
{{- end }}

{{/* What tells them to let a pod end its work: training goes on from a checkpoint, but loses time. */}}
{{- define "ostler.unmoved" -}}
cluster-autoscaler.kubernetes.io/safe-to-evict: "false"
karpenter.sh/do-not-disrupt: "true"
{{- end }}

{{/* Labels and annotations of a pod: `labels` and `values` of its component, whose own annotations win over `annotations`,
     `checksum` of its configuration. */}}
{{- define "ostler.podMetadata" -}}
labels:
  {{- .labels | nindent 2 }}
  {{- with .values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- $annotations := merge (dict) (.values.podAnnotations | default dict) (.annotations | default dict) }}
{{- if or $annotations .checksum }}
annotations:
  {{- with .checksum }}
  checksum/config: {{ . }}
  {{- end }}
  {{- with $annotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Liveness and readiness of a process of ours on the port `port`, with `startup` seconds to begin. */}}
{{- define "ostler.probes" -}}
startupProbe:
  httpGet:
    path: /livez
    port: {{ .port }}
  periodSeconds: 2
  failureThreshold: {{ div .startup 2 }}
livenessProbe:
  httpGet:
    path: /livez
    port: {{ .port }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet:
    path: /readyz
    port: {{ .port }}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 2
{{- end }}

{{/* Where every process of ours may write: `size` of its work. */}}
{{- define "ostler.workVolumes" -}}
- name: tmp
  emptyDir: {}
- name: state
  emptyDir:
    sizeLimit: {{ .size }}
{{- end }}

{{- define "ostler.workMounts" -}}
- name: tmp
  mountPath: /tmp
- name: state
  mountPath: /var/lib/ostler
{{- end }}

{{/* The shared volume of artifacts, if there is one. */}}
{{- define "ostler.artifactVolume" -}}
{{- with .Values.artifacts.sharedVolume.existingClaim }}
- name: artifacts
  persistentVolumeClaim:
    claimName: {{ . }}
{{- end }}
{{- end }}

{{- define "ostler.artifactMount" -}}
{{- with .Values.artifacts.sharedVolume }}
{{- if .existingClaim }}
- name: artifacts
  mountPath: {{ .mountPath }}
{{- end }}
{{- end }}
{{- end }}

{{/* The source of the volume with base models, of a `modelCache`. */}}
{{- define "ostler.modelSource" -}}
{{- if eq .type "existingClaim" -}}
persistentVolumeClaim:
  claimName: {{ .existingClaim }}
{{- else if eq .type "hostPath" -}}
hostPath:
  path: {{ .hostPath }}
  type: Directory
{{- else -}}
emptyDir:
  sizeLimit: {{ .size }}
{{- end }}
{{- end }}

{{/* The sum of sizes as Kubernetes writes them, MiB, rounded up; what is no size counts nothing. */}}
{{- define "ostler.mebibytes" -}}
{{- $units := dict "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 }}
{{- $sum := 0.0 }}
{{- range . }}
{{- $number := regexFind "^[0-9.]+" . }}
{{- $factor := index $units (trimPrefix $number .) | default 1.0 }}
{{- $sum = addf $sum (mulf (float64 $number) $factor) }}
{{- end }}
{{- ceil (divf $sum 1048576.0) | int64 }}
{{- end }}

{{/* CPU, memory, GPUs and disk of a container: `resources`, `gpus`, `gpuResource`, `disks` (sizes of its emptyDirs, which
     are requested so that its node has them, unless the resources speak of ephemeral storage: a limit alone is also
     what Kubernetes requests, and it takes no request above it). */}}
{{- define "ostler.resources" -}}
{{- $resources := deepCopy .resources }}
{{- $disk := include "ostler.mebibytes" (.disks | default list) | int64 }}
{{- $isSaid := or (hasKey ($resources.requests | default dict) "ephemeral-storage") (hasKey ($resources.limits | default dict) "ephemeral-storage") }}
{{- if and $disk (not $isSaid) }}
{{- $_ := set $resources "requests" (merge (dict "ephemeral-storage" (printf "%dMi" $disk)) ($resources.requests | default dict)) }}
{{- end }}
{{- if .gpus }}
{{- $gpu := dict .gpuResource (int .gpus | toString) }}
{{- $_ := set $resources "limits" (merge (dict) $gpu ($resources.limits | default dict)) }}
{{- $_ := set $resources "requests" (merge (dict) $gpu ($resources.requests | default dict)) }}
{{- end }}
{{- toYaml $resources }}
{{- end }}
