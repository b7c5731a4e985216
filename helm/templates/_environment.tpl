{{/* One variable from a Secret: `name`, `secret`, `key`. */}}
{{- define "ostler.fromSecret" -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret }}
      key: {{ .key }}
{{- end }}

{{/* A map of settings as variables OSTLER_*. Numbers are written as JSON has them, so that no large one gets an exponent. */}}
{{- define "ostler.settings" -}}
{{- range $name, $value := . }}
- name: OSTLER_{{ upper $name }}
  value: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}
{{- end }}
{{- end }}

{{- define "ostler.embeddedSecret" -}}
{{ include "ostler.fullname" . }}-embedded
{{- end }}

{{- define "ostler.database" -}}
{{- if .Values.embedded.postgresql.enabled }}
{{- include "ostler.fromSecret" (dict "name" "OSTLER_DATABASE_URL" "secret" (include "ostler.embeddedSecret" .) "key" "database-url") }}
{{- else }}
{{- include "ostler.fromSecret" (dict "name" "OSTLER_DATABASE_URL" "secret" .Values.database.existingSecret "key" .Values.database.existingSecretKey) }}
{{- end }}
{{- end }}

{{- define "ostler.adminKeySecret" -}}
{{ .Values.adminKey.existingSecret | default (include "ostler.embeddedSecret" .) }}
{{- end }}

{{- define "ostler.adminKeySecretKey" -}}
{{ empty .Values.adminKey.existingSecret | ternary "api-key" .Values.adminKey.existingSecretKey }}
{{- end }}

{{- define "ostler.adminKey" -}}
{{- include "ostler.fromSecret" (dict "name" "OSTLER_API_KEY" "secret" (include "ostler.adminKeySecret" .) "key" (include "ostler.adminKeySecretKey" .)) }}
{{- end }}

{{/* Prometheus' key for the gateways, where there is one. */}}
{{- define "ostler.metricsKeySecret" -}}
{{ .Values.metricsKey.existingSecret | default (.Values.embedded.postgresql.enabled | ternary (include "ostler.embeddedSecret" .) "") }}
{{- end }}

{{- define "ostler.metricsKeySecretKey" -}}
{{ empty .Values.metricsKey.existingSecret | ternary "metrics-key" .Values.metricsKey.existingSecretKey }}
{{- end }}

{{/* Where the artifacts are, and what opens the object store. */}}
{{- define "ostler.artifacts" -}}
{{- $artifacts := .Values.artifacts }}
{{- $embedded := .Values.embedded.s3.enabled }}
- name: OSTLER_ARTIFACTS_URL
  value: {{ empty $artifacts.sharedVolume.existingClaim | ternary ($embedded | ternary "s3://ostler" $artifacts.url) $artifacts.sharedVolume.mountPath | quote }}
{{- with $embedded | ternary (printf "http://%s-s3:7070" (include "ostler.fullname" .)) $artifacts.endpointUrl }}
- name: AWS_ENDPOINT_URL
  value: {{ . | quote }}
{{- end }}
{{- with $embedded | ternary "us-east-1" $artifacts.region }}
- name: AWS_DEFAULT_REGION
  value: {{ . | quote }}
{{- end }}
{{- if $embedded }}
{{ include "ostler.fromSecret" (dict "name" "AWS_ACCESS_KEY_ID" "secret" (include "ostler.embeddedSecret" .) "key" "access-key-id") }}
{{ include "ostler.fromSecret" (dict "name" "AWS_SECRET_ACCESS_KEY" "secret" (include "ostler.embeddedSecret" .) "key" "secret-access-key") }}
{{- else if $artifacts.existingSecret }}
{{ include "ostler.fromSecret" (dict "name" "AWS_ACCESS_KEY_ID" "secret" $artifacts.existingSecret "key" $artifacts.accessKeyIdKey) }}
{{ include "ostler.fromSecret" (dict "name" "AWS_SECRET_ACCESS_KEY" "secret" $artifacts.existingSecret "key" $artifacts.secretAccessKeyKey) }}
{{- end }}
{{- end }}

{{/* Where limits are counted, if several gateways count them together. */}}
{{- define "ostler.limits" -}}
{{- if .Values.embedded.valkey.enabled }}
{{- include "ostler.fromSecret" (dict "name" "OSTLER_LIMITS_URL" "secret" (include "ostler.embeddedSecret" .) "key" "limits-url") }}
{{- else if .Values.limits.existingSecret }}
{{- include "ostler.fromSecret" (dict "name" "OSTLER_LIMITS_URL" "secret" .Values.limits.existingSecret "key" .Values.limits.existingSecretKey) }}
{{- end }}
{{- end }}

{{- define "ostler.agentToken" -}}
{{- with .Values.agent }}
{{- if and .enabled .existingSecret }}
{{- include "ostler.fromSecret" (dict "name" "OSTLER_AGENT_TOKEN" "secret" .existingSecret "key" .existingSecretKey) }}
{{- else if and .enabled $.Values.embedded.postgresql.enabled }}
{{- include "ostler.fromSecret" (dict "name" "OSTLER_AGENT_TOKEN" "secret" (include "ostler.embeddedSecret" $) "key" "agent-token") }}
{{- end }}
{{- end }}
{{- end }}

{{/* The chart's `own` variables and the operator's `extra` ones, which come from the value `at`. None is there twice. */}}
{{- define "ostler.env" -}}
{{- $at := .at }}
{{- $names := list }}
{{- range fromYamlArray .own }}{{ $names = append $names .name }}{{ end }}
{{- range .extra }}
{{- if has .name $names }}{{ fail (printf "%s: %s is set by the chart, or twice; another value gives it" $at .name) }}{{ end }}
{{- $names = append $names .name }}
{{- end }}
{{- .own }}
{{- with .extra }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "ostler.hubToken" -}}
{{- with .Values.huggingFace }}
{{- if .existingSecret }}
{{- include "ostler.fromSecret" (dict "name" "HF_TOKEN" "secret" .existingSecret "key" .existingSecretKey) }}
{{- end }}
{{- end }}
{{- end }}

{{/* What every process of ours that knows the registry is told. */}}
{{- define "ostler.storage" -}}
- name: OSTLER_HOME
  value: /var/lib/ostler
- name: OSTLER_CACHE
  value: /var/lib/ostler/cache
- name: OSTLER_LOG_LEVEL
  value: {{ .Values.logLevel }}
{{ include "ostler.database" . }}
{{- include "ostler.artifacts" . }}
{{- end }}

{{/* Where the gateway is, with the admin key for it. */}}
{{- define "ostler.gatewayAccess" -}}
- name: OSTLER_URL
  value: http://{{ include "ostler.fullname" . }}-gateway:{{ int .Values.gateway.service.port }}
{{ include "ostler.adminKey" . }}
{{- end }}

{{- define "ostler.gatewayEnv" -}}
{{- $values := .Values.gateway }}
{{- include "ostler.storage" . }}
- name: OSTLER_HOST
  value: {{ .Values.listenAddress | quote }}
- name: OSTLER_POOLS
  value: {{ include "ostler.poolsSetting" . | squote }}
- name: OSTLER_DRAIN_DELAY_S
  value: {{ $values.drainDelaySeconds | quote }}
- name: OSTLER_DRAIN_S
  value: {{ $values.drainSeconds | quote }}
{{- include "ostler.limits" . | nindent 0 }}
{{- include "ostler.agentToken" . | nindent 0 }}
{{- include "ostler.settings" $values.settings }}
{{- end }}

{{- define "ostler.monitorEnv" -}}
{{- include "ostler.storage" . }}
{{ include "ostler.gatewayAccess" . }}
- name: OSTLER_MONITOR_HOST
  value: {{ .Values.listenAddress | quote }}
- name: OSTLER_POOLS
  value: {{ include "ostler.poolsSetting" . | squote }}
{{- include "ostler.settings" .Values.monitor.settings }}
{{- end }}
