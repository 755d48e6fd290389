{{- /* A key of TOML, in quotes if it needs them. */ -}}
{{- define "tillwatch.key" -}}
{{- regexMatch "^[A-Za-z0-9_-]+$" . | ternary . (toJson .) -}}
{{- end -}}

{{- /* A value of YAML as a value of TOML. Helm reads each number as a float; the settings have none. */ -}}
{{- define "tillwatch.toml" -}}
{{- if kindIs "map" . -}}
{ {{- range $index, $key := keys . | sortAlpha }}{{ if $index }},{{ end }} {{ include "tillwatch.key" $key }} = {{ include "tillwatch.toml" (get $ $key) }}{{ end }} }
{{- else if kindIs "slice" . -}}
[{{- range $index, $value := . }}{{ if $index }}, {{ end }}{{ include "tillwatch.toml" $value }}{{ end -}}]
{{- else if kindIs "bool" . -}}
{{- . -}}
{{- else if kindIs "string" . -}}
{{- . | toJson -}}
{{- else -}}
{{- if ne (floor . | toString) (. | float64 | toString) -}}
{{- fail (printf "settings: %v must be a whole number" .) -}}
{{- end -}}
{{- int64 . -}}
{{- end -}}
{{- end -}}

{{- /* The folder of all files from Secrets. */ -}}
{{- define "tillwatch.secrets" -}}/run/secrets/tillwatch{{- end -}}

{{- /* The settings as the server reads them. */ -}}
{{- define "tillwatch.settings" -}}
{{- include "tillwatch.rules" . -}}
{{- $files := include "tillwatch.secrets" . -}}
{{- $settings := deepCopy .Values.settings -}}
{{- $listen := dict "grpc" "0.0.0.0:50051" "ops" "0.0.0.0:9464" "drain" (printf "%vs" .Values.drain.seconds) -}}
{{- if .Values.tls.secret -}}
{{- $_ := set $listen "tls_cert" (printf "%s/tls/tls.crt" $files) -}}
{{- $_ := set $listen "tls_key" (printf "%s/tls/tls.key" $files) -}}
{{- if .Values.tls.clientCa -}}
{{- $_ := set $listen "tls_client_ca" (printf "%s/tls/ca.crt" $files) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $settings "listen" (merge $listen ($settings.listen | default dict)) -}}
{{- if eq .Values.journal "sqlite" -}}
{{- $_ := set $settings "store" (merge (dict "url" "sqlite:/var/lib/tillwatch/tillwatch.db") ($settings.store | default dict)) -}}
{{- else -}}
{{- $_ := set $settings "store" (merge (dict "url_file" (printf "%s/store/url" $files) "fingerprint_key_file" (printf "%s/store/fingerprint-keys" $files)) ($settings.store | default dict)) -}}
{{- end -}}
{{- range .Values.secrets -}}
{{- $account := get $settings.accounts .account -}}
{{- $key := ternary .key (printf "%s_file" .key) (hasSuffix "_file" .key) -}}
{{- $_ := set $account $key (printf "%s/accounts/%s/%s" $files .account .key) -}}
{{- end -}}
{{- range $section := list "listen" "store" "callers" "accounts" "limits" "telemetry" -}}
{{- range $key, $value := get $settings $section | default dict }}
{{ $section }}.{{ include "tillwatch.key" $key }} = {{ include "tillwatch.toml" $value }}
{{- end -}}
{{- end }}
{{ end -}}
