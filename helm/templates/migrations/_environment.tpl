{{- define "ostler.migrationEnv" -}}
- name: OSTLER_HOME
  value: /var/lib/ostler
- name: OSTLER_CACHE
  value: /var/lib/ostler/cache
- name: OSTLER_LOG_LEVEL
  value: {{ .Values.logLevel }}
{{ include "ostler.database" . }}
{{- end }}

{{/* Up to the schema of the release, or back to an older one, which only the newer program knows; who names that one
     has been told that rows go. */}}
{{- define "ostler.migrateContainer" -}}
name: migrate
{{ include "ostler.container" (dict "root" . "image" .Values.gateway.image) }}
args: {{ empty .Values.migrations.to | ternary (list "migrate") (list "migrate" "--to" .Values.migrations.to "--yes") | toJson }}
env:
  {{- include "ostler.migrationEnv" . | nindent 2 }}
{{ include "ostler.migrationNeeds" . }}
{{- end }}

{{/* The admin's key comes first: where Prometheus' secret is the same by mistake, it must not become a key of metrics alone. */}}
{{- define "ostler.ensureKeyContainer" -}}
name: ensure-key
{{ include "ostler.container" (dict "root" . "image" .Values.gateway.image) }}
args: [keys, ensure, {{ .Values.adminKey.name | quote }}, --admin, --local]
env:
  {{- include "ostler.migrationEnv" . | nindent 2 }}
  {{- include "ostler.adminKey" . | nindent 2 }}
{{ include "ostler.migrationNeeds" . }}
{{- end }}

{{- define "ostler.ensureMetricsKeyContainer" -}}
name: ensure-metrics-key
{{ include "ostler.container" (dict "root" . "image" .Values.gateway.image) }}
args: [keys, ensure, {{ .Values.metricsKey.name | quote }}, --scope, metrics, --secret-variable, METRICS_KEY, --local]
env:
  {{- include "ostler.migrationEnv" . | nindent 2 }}
  {{- include "ostler.fromSecret" (dict "name" "METRICS_KEY" "secret" (include "ostler.metricsKeySecret" .) "key" (include "ostler.metricsKeySecretKey" .)) | nindent 2 }}
{{ include "ostler.migrationNeeds" . }}
{{- end }}

{{/* What each of the Job's containers needs, and where it may write. */}}
{{- define "ostler.migrationNeeds" -}}
resources:
  {{- include "ostler.resources" (dict "resources" .Values.migrations.resources "disks" (list "1Gi")) | nindent 2 }}
volumeMounts:
  {{- include "ostler.workMounts" . | nindent 2 }}
{{- end }}
