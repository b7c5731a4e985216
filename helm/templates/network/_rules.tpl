{{/* Parts of NetworkPolicies. A rule without `to` or `from` means anyone on that port. */}}
{{- define "ostler.peer" -}}
- podSelector:
    matchLabels:
      {{- include "ostler.selector" . | nindent 6 }}
{{- end }}

{{- define "ostler.egressTo" -}}
- {{ with .to }}to:
    {{- toYaml . | nindent 4 }}
  {{ end -}}
  ports:
    {{- range .ports }}
    - port: {{ int . }}
      protocol: TCP
    {{- end }}
{{- end }}

{{/* To pods of ours: `root`, `component`, `ports`. */}}
{{- define "ostler.egressToOurs" -}}
- to:
    {{- include "ostler.peer" . | nindent 4 }}
  ports:
    {{- range .ports }}
    - port: {{ . }}
      protocol: TCP
    {{- end }}
{{- end }}

{{/* The components of this release, as a JSON list. */}}
{{- define "ostler.components" -}}
{{- $found := list "gateway" }}
{{- if .Values.engines.pools }}{{ $found = append $found "engine" }}{{ end }}
{{- if .Values.monitor.enabled }}{{ $found = append $found "monitor" }}{{ end }}
{{- if .Values.tuner.enabled }}{{ $found = append $found "tuner" }}{{ end }}
{{- if and .Values.tuner.enabled (eq .Values.tuner.backend "kubernetes") }}{{ $found = append $found "tuning-job" }}{{ end }}
{{- if .Values.migrations.enabled }}{{ $found = append $found "migrate" }}{{ end }}
{{- if .Values.tests.enabled }}{{ $found = append $found "test" }}{{ end }}
{{- toJson $found }}
{{- end }}

{{/* From pods of ours, of those `components` that there are: `root`, `ports`. */}}
{{- define "ostler.ingressFromOurs" -}}
{{- $root := .root }}
{{- $components := .components }}
{{- $peers := list }}
{{- range include "ostler.components" .root | fromJsonArray }}
{{- if has . $components }}{{ $peers = append $peers (include "ostler.peer" (dict "root" $root "component" .)) }}{{ end }}
{{- end }}
{{- if $peers }}
- from:
    {{- join "\n" $peers | nindent 4 }}
  ports:
    {{- range .ports }}
    - port: {{ . }}
      protocol: TCP
    {{- end }}
{{- end }}
{{- end }}

{{/* Prometheus: `root`, `ports`. */}}
{{- define "ostler.ingressFromPrometheus" -}}
{{- $ports := .ports }}
{{- with .root.Values.networkPolicy.prometheusFrom }}
- from:
    {{- toYaml . | nindent 4 }}
  ports:
    {{- range $ports }}
    - port: {{ . }}
      protocol: TCP
    {{- end }}
{{- end }}
{{- end }}

{{/* The ingress of a process that only Prometheus asks: `root`, `port`. */}}
{{- define "ostler.ingressOfMetrics" -}}
ingress: {{ empty .root.Values.networkPolicy.prometheusFrom | ternary "[]" "" }}
  {{- include "ostler.ingressFromPrometheus" (dict "root" .root "ports" (list .port)) | nindent 2 }}
{{- end }}

{{- define "ostler.egressToGateway" -}}
{{- include "ostler.egressToOurs" (dict "root" . "component" "gateway" "ports" (list 8080)) }}
{{- end }}

{{- define "ostler.egressToDatabase" -}}
{{- if .Values.embedded.postgresql.enabled }}
{{- include "ostler.egressToOurs" (dict "root" . "component" "postgresql" "ports" (list 5432)) }}
{{- else }}
{{- with .Values.networkPolicy.database }}
{{- include "ostler.egressTo" (dict "to" .to "ports" (list .port)) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The port in an address, or the one that it leaves out. */}}
{{- define "ostler.portOf" -}}
{{ regexFind ":[0-9]+$" (urlParse .).host | trimPrefix ":" | default (hasPrefix "http:" . | ternary "80" "443") }}
{{- end }}

{{- define "ostler.egressToStore" -}}
{{- $port := include "ostler.portOf" .Values.artifacts.endpointUrl }}
{{- if .Values.embedded.s3.enabled }}
{{- include "ostler.egressToOurs" (dict "root" . "component" "s3" "ports" (list 7070)) }}
{{- else if .Values.artifacts.url }}
{{- with .Values.networkPolicy.objectStore }}
{{- include "ostler.egressTo" (dict "to" .to "ports" (list (.port | default $port))) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "ostler.egressToLimits" -}}
{{- if .Values.embedded.valkey.enabled }}
{{- include "ostler.egressToOurs" (dict "root" . "component" "valkey" "ports" (list 6379)) }}
{{- else if .Values.limits.existingSecret }}
{{- with .Values.networkPolicy.limits }}
{{- include "ostler.egressTo" (dict "to" .to "ports" (list .port)) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "ostler.egressToModelHub" -}}
{{- with .Values.networkPolicy.modelHub }}
{{- if .enabled }}
{{- include "ostler.egressTo" (dict "to" .to "ports" (list .port)) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "ostler.egressToDns" -}}
{{- with .Values.networkPolicy.dns -}}
- {{ with .to }}to:
    {{- toYaml . | nindent 4 }}
  {{ end -}}
  ports:
    {{- range .ports }}
    - port: {{ int . }}
      protocol: UDP
    - port: {{ int . }}
      protocol: TCP
    {{- end }}
{{- end }}
{{- end }}

{{/* `metadata` and the pods of a component's policy: `root`, `component`, `annotations`. */}}
{{- define "ostler.policy" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "ostler.metadata" . | nindent 2 }}
  {{- with .annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  podSelector:
    matchLabels:
      {{- include "ostler.selector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
{{- end }}
