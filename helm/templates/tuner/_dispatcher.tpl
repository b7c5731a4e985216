{{/* What each tuning job becomes: `root`, `pool`. */}}
{{- define "ostler.jobTemplate" -}}
{{- if eq .root.Values.tuner.kubernetes.kind "TrainJob" }}
{{- include "ostler.trainJob" . }}
{{- else }}
{{- include "ostler.tuningJob" . }}
{{- end }}
{{- end }}

{{- define "ostler.dispatcherAccount" -}}
{{ .Values.tuner.kubernetes.dispatcher.serviceAccount.name | default (printf "%s-tuner-dispatcher" (include "ostler.fullname" .)) }}
{{- end }}

{{/* The pod that makes a Job of each tuning job, and watches it. It alone talks to the API server. It needs no torch, so it
     has the gateways' image. */}}
{{- define "ostler.dispatcherPod" -}}
{{- $tuner := .root.Values.tuner }}
{{- $kubernetes := $tuner.kubernetes }}
{{- include "ostler.pod" . }}
serviceAccountName: {{ include "ostler.dispatcherAccount" .root }}
automountServiceAccountToken: true
terminationGracePeriodSeconds: {{ add $tuner.stopSeconds 20 }}
{{- include "ostler.placement" (dict "values" $kubernetes.dispatcher) | nindent 0 }}
containers:
  - name: tuner
    {{- include "ostler.container" (dict "root" .root "image" .root.Values.gateway.image) | nindent 4 }}
    args: [tuner, --backend, kubernetes]
    env:
      {{- include "ostler.storage" .root | nindent 6 }}
      - name: OSTLER_BASE
        value: {{ .pool.base | quote }}
      - name: OSTLER_TUNER_HOST
        value: {{ .root.Values.listenAddress | quote }}
      - name: OSTLER_TUNER_STOP_S
        value: {{ $tuner.stopSeconds | quote }}
      - name: OSTLER_TUNER_JOB_TEMPLATE
        value: /etc/ostler/tuner/job.yaml
      - name: OSTLER_TUNER_NAMESPACE
        value: {{ .root.Release.Namespace }}
      - name: OSTLER_TUNER_MAX_PODS
        value: {{ $kubernetes.maxPods | int | quote }}
      {{- with $kubernetes.deadlineSeconds }}
      - name: OSTLER_TUNER_DEADLINE_S
        value: {{ int . | quote }}
      {{- end }}
      - name: OSTLER_TUNER_TTL_S
        value: {{ $kubernetes.ttlSeconds | int | quote }}
      {{- include "ostler.settings" $tuner.settings | nindent 6 }}
    ports:
      - name: metrics
        containerPort: 8082
    {{- include "ostler.probes" (dict "port" "metrics" "startup" 120) | nindent 4 }}
    resources:
      {{- include "ostler.resources" (dict "resources" $kubernetes.dispatcher.resources "disks" (list "1Gi")) | nindent 6 }}
    volumeMounts:
      {{- include "ostler.workMounts" .root | nindent 6 }}
      - name: job-template
        mountPath: /etc/ostler/tuner
        readOnly: true
      {{- include "ostler.artifactMount" .root | nindent 6 }}
volumes:
  {{- include "ostler.workVolumes" (dict "size" "1Gi") | nindent 2 }}
  - name: job-template
    configMap:
      name: {{ include "ostler.fullname" .root }}-{{ .suffix }}-job
  {{- include "ostler.artifactVolume" .root | nindent 2 }}
{{- end }}
