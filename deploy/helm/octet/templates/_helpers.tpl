{{/* The release's name is that of every resource, and of the pods' label: two releases in a namespace keep apart. */}}
{{- define "octet.name" -}}
{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "octet.podLabels" -}}
app.kubernetes.io/name: {{ include "octet.name" . }}
{{- end }}

{{- define "octet.labels" -}}
{{ include "octet.podLabels" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* Where a NetworkPolicy finds a namespace by its name. */}}
{{- define "octet.namespace" -}}
matchLabels:
  kubernetes.io/metadata.name: {{ . }}
{{- end }}

{{- define "octet.isIstio" -}}
{{- if hasPrefix "istio-" .Values.mesh }}true{{ end -}}
{{- end }}

{{/* preStop, the grace, the drain: until then proxies have to live. Then 25 s for the engine's processes. */}}
{{- define "octet.proxySeconds" -}}
{{ add 5 .Values.graceSeconds .Values.drainSeconds 25 }}
{{- end }}

{{- define "octet.probe" -}}
{{- if .Values.tls.enabled -}}
httpGet:
  path: /health
  port: metrics
{{- else -}}
grpc:
  port: 50051
{{- end }}
{{- end }}

{{- define "octet.resources" -}}
{{- $resources := deepCopy .Values.resources -}}
{{- if .Values.gpus -}}
{{- $count := .Values.gpus | int | toString -}}
{{- $requests := dict "nvidia.com/gpu" $count -}}
{{- $limits := dict "nvidia.com/gpu" $count -}}
{{- $resources = merge $resources (dict "requests" $requests "limits" $limits) -}}
{{- end -}}
{{- if $resources -}}
{{ toYaml $resources }}
{{- end -}}
{{- end }}

{{- define "octet.behavior" -}}
# The figure says how many are enough. A replica takes a minute or more to load and only then shows its effect: no more
# than twice as many in two minutes, and one fewer at a time.
scaleUp:
  stabilizationWindowSeconds: 30
  policies:
    - type: Percent
      value: 100
      periodSeconds: 120
scaleDown:
  stabilizationWindowSeconds: 600
  policies:
    - type: Pods
      value: 1
      periodSeconds: 300
{{- end }}
