{{- /* The pod of either journal. */ -}}
{{- define "tillwatch.pod" -}}
metadata:
  labels:
    {{- include "tillwatch.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # New settings start a new pod.
    checksum/settings: {{ include "tillwatch.settings" . | sha256sum }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "tillwatch.name" . }}
  automountServiceAccountToken: false
  # Variables that announce services would look like settings.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .Values.drain.terminationGracePeriodSeconds }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if eq .Values.journal "postgresql" }}
  topologySpreadConstraints:
    {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "tillwatch.selector" $ | nindent 10 }}
      # The pods of an upgrade are spread without those that leave.
      matchLabelKeys: [pod-template-hash]
    {{- end }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      type: RuntimeDefault
  containers:
    - name: tillwatch
      image: {{ include "tillwatch.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: ["serve", "--config", "/etc/tillwatch/tillwatch.toml"]
      ports:
        - name: grpc
          containerPort: 50051
        - name: ops
          containerPort: 9464
      # Alive from the first moment, also while a long journal is read.
      startupProbe:
        httpGet: { path: /healthz, port: ops }
        periodSeconds: 1
        failureThreshold: 60
      livenessProbe:
        httpGet: { path: /healthz, port: ops }
        periodSeconds: 10
        timeoutSeconds: 3
        failureThreshold: 3
      readinessProbe:
        httpGet: { path: /readyz, port: ops }
        periodSeconds: 5
        timeoutSeconds: 3
        failureThreshold: 1
      lifecycle:
        preStop:
          sleep:
            seconds: {{ .Values.drain.preStopSeconds }}
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: ["ALL"]
      volumeMounts:
        - name: settings
          mountPath: /etc/tillwatch
          readOnly: true
        {{- if eq .Values.journal "sqlite" }}
        - name: journal
          mountPath: /var/lib/tillwatch
        {{- end }}
        {{- if include "tillwatch.sources" . }}
        - name: secrets
          mountPath: {{ include "tillwatch.secrets" . }}
          readOnly: true
        {{- end }}
  volumes:
    - name: settings
      configMap:
        name: {{ include "tillwatch.name" . }}
    {{- with include "tillwatch.sources" . }}
    - name: secrets
      projected:
        # Readable for the server's group alone.
        defaultMode: 0440
        sources:
          {{- . | nindent 10 }}
    {{- end }}
{{- end -}}

{{- /* The Secrets that become files; empty if there are none. */ -}}
{{- define "tillwatch.sources" -}}
{{- range .Values.secrets }}
- secret:
    name: {{ .secret }}
    items:
      - key: {{ .item }}
        path: accounts/{{ .account }}/{{ .key }}
{{- end }}
{{- if .Values.tls.secret }}
- secret:
    name: {{ .Values.tls.secret }}
    items:
      - key: tls.crt
        path: tls/tls.crt
      - key: tls.key
        path: tls/tls.key
      {{- if .Values.tls.clientCa }}
      - key: ca.crt
        path: tls/ca.crt
      {{- end }}
{{- end }}
{{- if eq .Values.journal "postgresql" }}
- secret:
    name: {{ .Values.postgresql.secret }}
    items:
      - key: {{ .Values.postgresql.urlKey }}
        path: store/url
      - key: {{ .Values.postgresql.fingerprintKeysKey }}
        path: store/fingerprint-keys
      {{- with .Values.postgresql.caKey }}
      - key: {{ . }}
        path: store/ca.crt
      {{- end }}
{{- end }}
{{- end -}}
