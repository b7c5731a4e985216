{{/* The pools with the defaults filled in, as a JSON list. */}}
{{- define "ostler.pools" -}}
{{- $pools := list }}
{{- range .Values.engines.pools }}
{{- $pool := mergeOverwrite (deepCopy $.Values.engines.defaults) (deepCopy .) }}
{{- if eq $pool.device "cpu" }}
{{- $_ := set $pool "gpus" 0 }}
{{- $_ := set $pool "image" $pool.cpuImage }}
{{- end }}
{{- $pools = append $pools $pool }}
{{- end }}
{{- toJson $pools }}
{{- end }}

{{/* The base models' config.json, as far as they are given: the name of a file and its content. */}}
{{- define "ostler.modelConfigs" -}}
{{- $configs := dict }}
{{- range include "ostler.pools" . | fromJsonArray }}
{{- if .modelConfig }}{{ $_ := set $configs (printf "%s.json" .name) .modelConfig }}{{ end }}
{{- end }}
{{- if $configs }}{{ toYaml $configs }}{{ end }}
{{- end }}

{{/* The pools that are tuned, as a JSON list. */}}
{{- define "ostler.tunedPools" -}}
{{- $pools := list }}
{{- range include "ostler.pools" . | fromJsonArray }}
{{- if or (not $.Values.tuner.pools) (has .name $.Values.tuner.pools) }}
{{- $pools = append $pools . }}
{{- end }}
{{- end }}
{{- toJson $pools }}
{{- end }}

{{/* The setting OSTLER_POOLS: where each pool's engines are, and what they take. */}}
{{- define "ostler.poolsSetting" -}}
{{- $entries := list }}
{{- range include "ostler.pools" . | fromJsonArray }}
{{- $host := printf "%s-engine-%s.%s.svc" (include "ostler.fullname" $) .name $.Release.Namespace }}
{{- $entry := dict "base" .base "engine_dns" (printf "%s:8000" $host) "engine_slots" .slots "max_lora_rank" .maxLoraRank }}
{{- if .modelConfig }}
{{- $_ := set $entry "base_model" (printf "/etc/ostler/models/%s" .name) }}
{{- end }}
{{- if $.Values.agent.enabled }}
{{- $_ := set $entry "engine_agent_port" 8083 }}
{{- end }}
{{- $entries = append $entries (merge $entry .pricing) }}
{{- end }}
{{- toJson (concat $entries .Values.engines.external) }}
{{- end }}

{{/* Refuses a folder as `model` of the `pool` at `at` that cannot be there: of an empty volume, or of no volume at all. */}}
{{- define "ostler.checkModel" -}}
{{- $model := .pool.model }}
{{- $cache := .pool.modelCache.type }}
{{- if hasPrefix "/var/lib/ostler/models/" $model }}
{{- if has $cache (list "emptyDir" "claimPerReplica") }}{{ fail (printf "%s.model: is a folder of the model cache, which is empty with modelCache.type %s; take existingClaim or hostPath, or the model's id" .at $cache) }}{{ end }}
{{- else if and (hasPrefix "/" $model) (regexMatch "(^|/)(vllm/vllm-openai|ostler/engine-cpu)$" .pool.image.repository) (not (and (eq .pool.device "cpu") (hasPrefix "/opt/ostler/demo/" $model))) }}
{{- fail (printf "%s.model: there is no %s in the image; folders of the model cache are mounted at /var/lib/ostler/models" .at $model) }}
{{- end }}
{{- end }}
