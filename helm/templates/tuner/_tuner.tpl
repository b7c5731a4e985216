{{/* What trains: `root`, `pool`. The dispatcher gives its jobs their arguments, so they have none here. */}}
{{- define "ostler.tunerEnv" -}}
{{- $tuner := .root.Values.tuner }}
{{- include "ostler.storage" .root }}
{{ include "ostler.gatewayAccess" .root }}
- name: OSTLER_BASE
  value: {{ .pool.base | quote }}
- name: OSTLER_BASE_MODEL
  value: {{ .pool.model | quote }}
- name: OSTLER_MAX_LORA_RANK
  value: {{ .pool.maxLoraRank | int | quote }}
{{- with .pool.maxModelLen }}
- name: OSTLER_MAX_MODEL_LEN
  value: {{ int . | quote }}
{{- end }}
- name: OSTLER_POOLS
  value: {{ include "ostler.poolsSetting" .root | squote }}
- name: OSTLER_TUNER_HOST
  value: {{ .root.Values.listenAddress | quote }}
- name: OSTLER_TUNER_STOP_S
  value: {{ $tuner.stopSeconds | quote }}
- name: OSTLER_TUNER_PROCESSES
  value: {{ max 1 $tuner.gpus | quote }}
- name: HOME
  value: /var/lib/ostler
- name: USER
  value: ostler
- name: HF_HOME
  value: /var/lib/ostler/models
{{- include "ostler.hubToken" .root | nindent 0 }}
{{- include "ostler.settings" $tuner.settings }}
{{- end }}

{{- define "ostler.allTunerEnv" -}}
{{- include "ostler.env" (dict "own" (include "ostler.tunerEnv" .) "extra" .root.Values.tuner.extraEnv "at" "tuner.extraEnv") }}
{{- end }}

{{- define "ostler.tunerResources" -}}
{{- $disks := eq .modelCache.type "emptyDir" | ternary (list .workSize .modelCache.size) (list .workSize) }}
{{- include "ostler.resources" (merge (dict "disks" $disks) .) }}
{{- end }}

{{- define "ostler.tunerContainer" -}}
name: tuner
{{ include "ostler.container" (dict "root" .root "image" .root.Values.tuner.image) }}
env:
  {{- include "ostler.allTunerEnv" . | nindent 2 }}
ports:
  - name: metrics
    containerPort: 8082
{{ include "ostler.probes" (dict "port" "metrics" "startup" 300) }}
resources:
  {{- include "ostler.tunerResources" .root.Values.tuner | nindent 2 }}
volumeMounts:
  {{- include "ostler.tunerMounts" .root | nindent 2 }}
{{- end }}

{{- define "ostler.tunerMounts" -}}
{{- include "ostler.workMounts" . }}
- name: models
  mountPath: /var/lib/ostler/models
- name: shm
  mountPath: /dev/shm
{{- include "ostler.artifactMount" . | nindent 0 }}
{{- end }}

{{- define "ostler.tunerVolumes" -}}
{{- $tuner := .Values.tuner }}
{{- include "ostler.workVolumes" (dict "size" $tuner.workSize) }}
- name: models
  {{- include "ostler.modelSource" $tuner.modelCache | nindent 2 }}
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: {{ $tuner.shmSize }}
{{- include "ostler.artifactVolume" . | nindent 0 }}
{{- end }}

{{/* The pod that trains, without its containers. */}}
{{- define "ostler.tunerPod" -}}
{{- $tuner := .root.Values.tuner }}
{{- include "ostler.pod" . }}
serviceAccountName: {{ include "ostler.serviceAccount" (dict "root" .root "component" "tuner" "account" $tuner.serviceAccount) }}
automountServiceAccountToken: false
# The step that runs, and the checkpoint's way to the store.
terminationGracePeriodSeconds: {{ add $tuner.stopSeconds 20 }}
{{- with $tuner.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- include "ostler.placement" (dict "values" $tuner) | nindent 0 }}
volumes:
  {{- include "ostler.tunerVolumes" .root | nindent 2 }}
{{- end }}

{{/* The Job that a tuning job becomes. */}}
{{- define "ostler.tuningJob" -}}
{{- $tuner := .root.Values.tuner }}
{{- $who := dict "root" .root "component" "tuning-job" "pool" .pool.name }}
apiVersion: batch/v1
kind: Job
metadata:
  labels:
    {{- include "ostler.labels" $who | nindent 4 }}
    {{- with $tuner.kubernetes.queueName }}
    kueue.x-k8s.io/queue-name: {{ . }}
    {{- end }}
spec:
  template:
    metadata:
      {{- include "ostler.podMetadata" (dict "labels" (include "ostler.podLabels" $who) "values" $tuner "annotations" (include "ostler.unmoved" . | fromYaml)) | nindent 6 }}
    spec:
      {{- include "ostler.tunerPod" . | nindent 6 }}
      containers:
        - {{- include "ostler.tunerContainer" . | nindent 10 }}
{{- end }}

{{/* The TrainJob of Kubeflow Trainer that it becomes: its pods are those of a runtime, with what is ours put in. */}}
{{- define "ostler.trainJob" -}}
{{- $tuner := .root.Values.tuner }}
{{- $trainJob := $tuner.kubernetes.trainJob }}
apiVersion: trainer.kubeflow.org/v1alpha1
kind: TrainJob
metadata:
  labels:
    {{- include "ostler.labels" (dict "root" .root "component" "tuning-job" "pool" .pool.name) | nindent 4 }}
    {{- with $tuner.kubernetes.queueName }}
    kueue.x-k8s.io/queue-name: {{ . }}
    {{- end }}
spec:
  runtimeRef:
    name: {{ $trainJob.runtime }}
  trainer:
    image: {{ include "ostler.image" (dict "root" .root "image" $tuner.image) }}
    numNodes: {{ int $trainJob.nodes }}
    numProcPerNode: {{ int (max 1 $tuner.gpus) }}
    resourcesPerNode:
      {{- include "ostler.tunerResources" $tuner | nindent 6 }}
    env:
      {{- include "ostler.allTunerEnv" . | nindent 6 }}
  runtimePatches:
    - manager: ostler/chart
      trainingRuntimeSpec:
        template:
          spec:
            replicatedJobs:
              - name: node
                template:
                  spec:
                    template:
                      {{- include "ostler.trainJobPod" . | nindent 22 }}
{{- end }}

{{/* What is changed of the runtime's pods. */}}
{{- define "ostler.trainJobPod" -}}
{{- $tuner := .root.Values.tuner }}
metadata:
  {{- include "ostler.podMetadata" (dict "labels" (include "ostler.podLabels" (dict "root" .root "component" "tuning-job" "pool" .pool.name)) "values" $tuner "annotations" (include "ostler.unmoved" . | fromYaml)) | nindent 2 }}
spec:
  {{- include "ostler.pullSecrets" .root | nindent 2 }}
  serviceAccountName: {{ include "ostler.serviceAccount" (dict "root" .root "component" "tuner" "account" $tuner.serviceAccount) }}
  securityContext:
    {{- include "ostler.podSecurity" . | nindent 4 }}
  terminationGracePeriodSeconds: {{ add $tuner.stopSeconds 20 }}
  {{- include "ostler.placement" (dict "values" $tuner) | nindent 2 }}
  containers:
    - name: node
      securityContext:
        {{- include "ostler.containerSecurity" . | nindent 8 }}
      volumeMounts:
        {{- include "ostler.tunerMounts" .root | nindent 8 }}
  volumes:
    {{- include "ostler.tunerVolumes" .root | nindent 4 }}
{{- end }}
