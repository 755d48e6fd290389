//! The settings that a running server cannot change.

use super::Config;

impl Config {
    /// The keys in which newer settings differ and that need a restart, in the order of the pages about
    /// them. Accounts, callers and their limits, and the content of files are not among them.
    pub fn restart_keys(&self, newer: &Self) -> Vec<String> {
        let (listen, store, limits) = (&self.listen, &self.store, &self.limits);
        let is_anonymous = |config: &Self| config.callers.iter().any(|caller| caller.anonymous);
        let counts_open = |config: &Self| {
            let mut callers = config.callers.iter();
            callers.any(|caller| caller.limits.open_purchases > 0)
        };
        let differences = [
            ("listen.grpc", listen.grpc != newer.listen.grpc),
            ("listen.ops", listen.ops != newer.listen.ops),
            (
                "listen.reflection",
                listen.reflection != newer.listen.reflection,
            ),
            ("listen.threads", listen.threads != newer.listen.threads),
            ("listen.drain", listen.drain != newer.listen.drain),
            (
                "listen.tls_cert, tls_key, tls_client_ca",
                listen.tls != newer.listen.tls,
            ),
            (
                "listen.web_origins",
                listen.web_origins != newer.listen.web_origins,
            ),
            ("store.url", store.database != newer.store.database),
            ("store.retention", store.retention != newer.store.retention),
            (
                "store.fingerprint_key_file",
                store.fingerprint_keys != newer.store.fingerprint_keys,
            ),
            (
                "callers, all of them: the anonymous caller is new or gone",
                is_anonymous(self) != is_anonymous(newer),
            ),
            (
                "limits: the first open_purchases_per_caller",
                !counts_open(self) && counts_open(newer),
            ),
            (
                "limits.connections",
                limits.connections != newer.limits.connections,
            ),
            (
                "telemetry.log_format",
                self.telemetry.log_format != newer.telemetry.log_format,
            ),
            (
                "telemetry.otlp_endpoint, otlp_protocol, otlp_headers_file, otlp_ca_file, trace_sample",
                self.telemetry.traces != newer.telemetry.traces,
            ),
        ];
        let changed = differences.into_iter().filter(|(_, is_other)| *is_other);
        let keys = changed.map(|(key, _)| key.to_owned());
        keys.collect()
    }
}
