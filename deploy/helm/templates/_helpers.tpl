{{- define "tokens.name" -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "tokens.account" -}}
{{- default (include "tokens.name" .) .Values.serviceAccount.name -}}
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
