{{- define "tokens.name" -}}
{{- default .Release.Name .Values.nameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "tokens.account" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "tokens.name" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "tokens.selector" -}}
app.kubernetes.io/name: syncline-tokens
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "tokens.labels" -}}
{{ include "tokens.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "tokens.metadata" -}}
name: {{ include "tokens.name" . }}
namespace: {{ .Release.Namespace }}
labels: {{- include "tokens.labels" . | nindent 2 }}
{{- end -}}

{{- define "tokens.syncs" -}}
{{- if not .Values.syncs -}}
{{- fail "syncs is empty: set at least one sync, see docs/tokens.md" -}}
{{- end -}}
{{ dict "syncs" .Values.syncs | toYaml }}
{{- end -}}
