{{/* A server for trying out, with one pod, a Service and, if it has a `size`, a volume: `root`, `component`, `port`, `values`,
     `user` (its image's own, where the cluster does not choose ids), `container` (its command, environment and probe), `prepare` (a command before it starts). */}}
{{- define "ostler.embeddedServer" -}}
{{- $user := dict }}
{{- range list "runAsUser" "runAsGroup" "fsGroup" }}
{{- $_ := set $user . (eq (index $.root.Values.security .) nil | ternary nil $.user) }}
{{- end }}
apiVersion: v1
kind: Service
metadata:
  {{- include "ostler.metadata" . | nindent 2 }}
spec:
  selector:
    {{- include "ostler.selector" . | nindent 4 }}
  ports:
    - name: server
      port: {{ .port }}
      targetPort: server
---
apiVersion: apps/v1
kind: StatefulSet
metadata:
  {{- include "ostler.metadata" . | nindent 2 }}
spec:
  replicas: 1
  serviceName: {{ include "ostler.fullname" .root }}-{{ .component }}
  selector:
    matchLabels:
      {{- include "ostler.selector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "ostler.podLabels" . | nindent 8 }}
    spec:
      {{- include "ostler.pod" (dict "root" .root "user" $user) | nindent 6 }}
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 60
      {{- with .prepare }}
      initContainers:
        - name: prepare
          {{- include "ostler.container" (dict "root" $.root "image" $.values.image "foreign" true) | nindent 10 }}
          command: [sh, -c, {{ . | quote }}]
          resources:
            {{- toYaml $.values.resources | nindent 12 }}
          volumeMounts:
            - name: tmp
              mountPath: /tmp
            - name: data
              mountPath: /data
      {{- end }}
      containers:
        - name: {{ .component }}
          {{- include "ostler.container" (dict "root" .root "image" .values.image "foreign" true) | nindent 10 }}
          {{- .container | nindent 10 }}
          ports:
            - name: server
              containerPort: {{ .port }}
          startupProbe:
            tcpSocket:
              port: server
            periodSeconds: 2
            failureThreshold: 60
          livenessProbe:
            tcpSocket:
              port: server
            failureThreshold: 6
          resources:
            {{- toYaml .values.resources | nindent 12 }}
          volumeMounts:
            - name: tmp
              mountPath: /tmp
            - name: run
              mountPath: /var/run/postgresql
            - name: data
              mountPath: /data
      volumes:
        - name: tmp
          emptyDir: {}
        - name: run
          emptyDir: {}
        {{- if not .values.size }}
        - name: data
          emptyDir: {}
        {{- end }}
  {{- if .values.size }}
  volumeClaimTemplates:
    - metadata:
        name: data
      spec:
        accessModes: [ReadWriteOnce]
        {{- with .values.storageClass }}
        storageClassName: {{ . }}
        {{- end }}
        resources:
          requests:
            storage: {{ .values.size }}
  {{- end }}
{{- end }}
