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
{{- fail "syncs is empty: set at least one sync, see docs/reference/tokens.md" -}}
{{- end -}}
{{ dict "syncs" .Values.syncs | toYaml }}
{{- end -}}

{{/* Refuse a source that names not one thing to list, or that the service account of the pods could not list. */}}
{{- define "tokens.sources" -}}
{{- $namespaces := .Values.namespaces | default (list .Release.Namespace) -}}
{{- range $sync, $config := .Values.syncs -}}
{{- range $name, $source := $config.sources -}}
{{- $at := printf "syncs.%s.sources.%s" $sync $name -}}
{{- if eq (empty $source.service) (empty $source.labels) -}}
{{- fail (printf "%s takes one of service and labels" $at) -}}
{{- end -}}
{{- if and $.Values.rbac.create (eq "in-cluster" (toString ($source.auth | default "in-cluster"))) -}}
{{- if not (has $source.namespace $namespaces) -}}
{{- fail (printf "%s: nothing may be listed in the namespace %s; add it to `namespaces`" $at $source.namespace) -}}
{{- end -}}
{{- if and $source.service (not $.Values.lists.endpointslices) -}}
{{- fail (printf "%s needs `lists.endpointslices: true`" $at) -}}
{{- end -}}
{{- if and $source.labels (not $.Values.lists.pods) -}}
{{- fail (printf "%s needs `lists.pods: true`" $at) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
