{{- define "hawser.name" -}}
{{- .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "hawser.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "hawser.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "hawser.selector" . }}
{{- end -}}

{{- define "hawser.selector" -}}
app.kubernetes.io/name: {{ include "hawser.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "hawser.serviceAccount" -}}
{{- if .Values.serviceAccount.name -}}
{{- .Values.serviceAccount.name -}}
{{- else if .Values.serviceAccount.create -}}
{{- include "hawser.fullname" . -}}
{{- else -}}
default
{{- end -}}
{{- end -}}

{{- define "hawser.workerServiceAccount" -}}
{{- .Values.worker.serviceAccount.name | default (printf "%s-worker" (include "hawser.fullname" .)) -}}
{{- end -}}

{{/* An image: with its digest where one is given, else with its tag, else with the chart's version. */}}
{{- define "hawser.image" -}}
{{- $repository := required (printf "%s is needed: build the images, push them, and name them (docs/getting-started.md)" .of) .image.repository -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (.image.tag | default .chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* The namespaces that have Appliances, the release's own first. */}}
{{- define "hawser.namespaces" -}}
{{- concat (list .Release.Namespace) .Values.applianceNamespaces | uniq | toJson -}}
{{- end -}}
