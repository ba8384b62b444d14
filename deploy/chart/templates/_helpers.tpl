{{- define "rightsizer.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* What every object's name begins with: 47 letters leave room for what follows. A release may have a name that no
Service can have: with dots, or with a digit in front before Kubernetes 1.36. */}}
{{- define "rightsizer.fullname" -}}
{{- $name := include "rightsizer.name" . -}}
{{- $both := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- $full := .Values.fullnameOverride | default $both | replace "." "-" | trunc 47 | trimAll "-" -}}
{{- if and (not (regexMatch "^[a-z]" $full)) (semverCompare "<1.36-0" .Capabilities.KubeVersion.Version) -}}
{{- fail (printf "fullnameOverride: before Kubernetes 1.36 names of Services begin with a letter, and %s does not: say another one" $full) -}}
{{- end -}}
{{- $full -}}
{{- end -}}

{{/* Of the pods of one component; `component` is merged into the chart's own context. */}}
{{- define "rightsizer.selector" -}}
app.kubernetes.io/name: {{ include "rightsizer.name" . | toYaml }}
app.kubernetes.io/instance: {{ .Release.Name | toYaml }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "rightsizer.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/name: {{ include "rightsizer.name" . | toYaml }}
app.kubernetes.io/instance: {{ .Release.Name | toYaml }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* How the plugin comes into pods. */}}
{{- define "rightsizer.way" -}}
{{- .Values.vllm.observability.enabled | ternary .Values.vllm.injection.way "none" -}}
{{- end -}}

{{/* Whether GPUs may be allocated by claims: yes, or nothing. */}}
{{- define "rightsizer.claims" -}}
{{- if or .Values.recommender.gpuClaims (eq .Values.clusterAutomation.vllm.emitter "dra") }}yes{{ end -}}
{{- end -}}

{{/* Labels and annotations of the pods of one component: of the chart's context with `component`, and of the values of
what they belong to. */}}
{{- define "rightsizer.podMetadata" -}}
{{- $root := index . 0 -}}
{{- $own := index . 1 -}}
{{- $labels := merge (include "rightsizer.selector" $root | fromYaml) ($own.podLabels | default dict) -}}
labels: {{- merge $labels ($root.Values.commonLabels | default dict) | toYaml | nindent 2 }}
{{- with $own.podAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The name of a component's ServiceAccount, of the same two. */}}
{{- define "rightsizer.account" -}}
{{- $root := index . 0 -}}
{{- if and (not (include "rightsizer.makesAccount" .)) (not (index . 1).serviceAccount.name) -}}
{{- fail (printf "%s.serviceAccount.name: with create: false the chart makes no ServiceAccount: say the name of yours" $root.component) -}}
{{- end -}}
{{- (index . 1).serviceAccount.name | default (printf "%s-%s" (include "rightsizer.fullname" $root) $root.component) -}}
{{- end -}}

{{/* Whether the chart makes it: yes, or nothing. */}}
{{- define "rightsizer.makesAccount" -}}
{{- if ne (toString (index . 1).serviceAccount.create) "false" }}yes{{ end -}}
{{- end -}}

{{/* That ServiceAccount. */}}
{{- define "rightsizer.serviceAccount" -}}
{{- $root := index . 0 -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "rightsizer.account" . | toYaml }}
  namespace: {{ $root.Release.Namespace | toYaml }}
  labels: {{- include "rightsizer.labels" $root | nindent 4 }}
  {{- with (index . 1).serviceAccount.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* Of a list of the chart's context and one of its images; without a registry as `make images` calls it. */}}
{{- define "rightsizer.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $root.Values.image.registry | default "vllm-rightsizer" | trimSuffix "/" }}/{{ $image.repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default $root.Chart.AppVersion }}{{ end -}}
{{- end -}}

{{- define "rightsizer.pullPolicy" -}}
{{- .Values.image.pullPolicy | default (empty .Values.image.registry | ternary "Never" "IfNotPresent") -}}
{{- end -}}

{{/* OpenShift gives each namespace users and groups of its own, and refuses others. */}}
{{- define "rightsizer.isOpenShift" -}}
{{- if .Capabilities.APIVersions.Has "security.openshift.io/v1" }}yes{{ end -}}
{{- end -}}

{{- define "rightsizer.podSecurityContext" -}}
runAsNonRoot: true
{{- if not (include "rightsizer.isOpenShift" .) }}
runAsUser: 65532
runAsGroup: 65532
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "rightsizer.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Where pods go: of a component's values. */}}
{{- define "rightsizer.placement" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . | toYaml }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* `constraints`, each with the selector of `component`. */}}
{{- define "rightsizer.spread" -}}
{{- $selector := dict "labelSelector" (dict "matchLabels" (include "rightsizer.selector" . | fromYaml)) -}}
{{- $made := list -}}
{{- range .constraints -}}
{{- $made = append $made (merge (deepCopy .) $selector) -}}
{{- end -}}
{{- toYaml $made -}}
{{- end -}}

{{- define "rightsizer.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* What binds the role `name` to the ServiceAccount `account`; `kind` is ClusterRole or Role. */}}
{{- define "rightsizer.binding" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ .kind }}Binding
metadata:
  name: {{ .name }}
  {{- if eq .kind "Role" }}
  namespace: {{ .Release.Namespace | toYaml }}
  {{- end }}
  labels: {{- include "rightsizer.labels" . | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ .kind }}
  name: {{ .name }}
subjects:
  - kind: ServiceAccount
    name: {{ .account | toYaml }}
    namespace: {{ .Release.Namespace | toYaml }}
{{- end -}}
