{{- /* Rules between several values, which a schema cannot say. */ -}}
{{- define "tillwatch.rules" -}}
{{- $drain := .Values.drain -}}
{{- $least := add $drain.preStopSeconds $drain.seconds 5 -}}
{{- if lt (int $drain.terminationGracePeriodSeconds) (int $least) -}}
{{- fail (printf "drain.terminationGracePeriodSeconds is %v and must be at least %v: preStopSeconds, seconds, and 5 for the exit" $drain.terminationGracePeriodSeconds $least) -}}
{{- end -}}
{{- if not .Values.settings.callers -}}
{{- fail "settings.callers must name at least one caller" -}}
{{- end -}}
{{- range .Values.settings.callers -}}
{{- if .anonymous -}}
{{- fail "settings.callers: an anonymous caller is refused, since the server listens on all addresses" -}}
{{- end -}}
{{- end -}}
{{- range .Values.secrets -}}
{{- if not (hasKey ($.Values.settings.accounts | default dict) .account) -}}
{{- fail (printf "secrets: settings.accounts has no account %s" .account) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.tls.clientCa (not .Values.tls.secret) -}}
{{- fail "tls.clientCa needs tls.secret" -}}
{{- end -}}
{{- if and (eq .Values.journal "postgresql") (not .Values.postgresql.secret) -}}
{{- fail "postgresql.secret must name the Secret with the URL and the fingerprint keys" -}}
{{- end -}}
{{- end -}}
