{{/* Names and labels. Long names are cut, and told apart by a hash, so that what is added still fits into 63 characters. */}}
{{- define "ostler.name" -}}
{{ .Values.nameOverride | default .Chart.Name | trunc 30 | trimSuffix "-" }}
{{- end }}

{{- define "ostler.fullname" -}}
{{- $name := include "ostler.name" . }}
{{- $full := .Values.fullnameOverride | default (contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name)) }}
{{- if gt (len $full) 26 }}
{{- printf "%s-%s" ($full | trunc 17 | trimSuffix "-") ($full | sha256sum | trunc 8) }}
{{- else }}
{{- $full }}
{{- end }}
{{- end }}

{{/* Of `root` and a `component`, with the `pool` if there is one. */}}
{{- define "ostler.selector" -}}
app.kubernetes.io/name: {{ include "ostler.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .pool }}
ostler/pool: {{ . }}
{{- end }}
{{- end }}

{{/* What pods have: not the chart's version, which would replace them all with every upgrade. */}}
{{- define "ostler.podLabels" -}}
{{ include "ostler.selector" . }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "ostler.labels" -}}
{{ include "ostler.podLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* `metadata` of an object: `root`, `component`, `suffix` of its name, `pool`. */}}
{{- define "ostler.metadata" -}}
name: {{ include "ostler.fullname" .root }}-{{ .suffix | default .component }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "ostler.labels" . | nindent 2 }}
{{- end }}

{{/* The registry of Ostler's own images. */}}
{{- define "ostler.registry" -}}
{{ .Values.images.registry | default .Values.global.imageRegistry }}
{{- end }}

{{/* An image's full name, of `root` and `image`, `foreign` if it is none of Ostler's own; a digest wins over a tag. */}}
{{- define "ostler.image" -}}
{{- $registry := .foreign | default false | ternary .root.Values.global.imageRegistry (include "ostler.registry" .root) }}
{{- if regexMatch "^[^/]*[.:][^/]*/" .image.repository }}{{ $registry = "" }}{{ end }}
{{- with $registry }}{{ . }}/{{ end }}{{ .image.repository }}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ .image.tag | default .root.Chart.AppVersion }}{{ end }}
{{- end }}

{{/* The name of a component's service account. */}}
{{- define "ostler.serviceAccount" -}}
{{ .account.name | default (printf "%s-%s" (include "ostler.fullname" .root) .component) }}
{{- end }}
