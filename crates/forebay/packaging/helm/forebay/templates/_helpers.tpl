{{/* Kubernetes makes a label of the name of a StatefulSet and eleven characters more, and a label has 63 at most. */}}
{{- define "forebay.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "forebay.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "forebay.labels" -}}
{{ include "forebay.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* The settings as the TOML file that the program reads: texts and lists of texts are quoted as JSON quotes them, which
TOML takes too. */}}
{{- define "forebay.toml" -}}
{{- range $key := list "listen" "data-dir" }}
{{- if hasKey $.Values.config $key }}
{{- fail (printf "config.%s: the chart says what it is, since its ports and volumes go by it: leave it out" $key) }}
{{- end }}
{{- end }}
{{- range $key, $value := .Values.config }}
{{ $key }} = {{ toJson $value }}
{{- end }}
{{- end -}}
