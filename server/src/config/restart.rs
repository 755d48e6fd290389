//! The settings that a running server cannot change.

use super::Config;

impl Config {
    /// The keys in which newer settings differ and that need a restart, in the order of the pages about
    /// them. Callers, their limits and the content of files are not among them.
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
                "listen.stream_age",
                listen.stream_age != newer.listen.stream_age,
            ),
            (
                "listen.tls_cert, tls_key, tls_client_ca",
                listen.tls != newer.listen.tls,
            ),
            ("store.url", store.database != newer.store.database),
            ("store.retention", store.retention != newer.store.retention),
            (
                "store.fingerprint_key_file",
                store.fingerprint_key_file != newer.store.fingerprint_key_file,
            ),
            (
                "callers, all of them: the anonymous caller is new or gone",
                is_anonymous(self) != is_anonymous(newer),
            ),
            (
                "limits: the first open_purchases_per_caller",
                !counts_open(self) && counts_open(newer),
            ),
            ("limits.streams", limits.streams != newer.limits.streams),
            (
                "limits.connections",
                limits.connections != newer.limits.connections,
            ),
            ("telemetry.log", self.telemetry.log != newer.telemetry.log),
            (
                "telemetry.log_format",
                self.telemetry.log_format != newer.telemetry.log_format,
            ),
        ];
        let changed = differences.into_iter().filter(|(_, is_other)| *is_other);
        let keys = changed.map(|(key, _)| key.to_owned());
        keys.chain(self.changed_accounts(newer)).collect()
    }

    /// Accounts that are new, changed or gone.
    fn changed_accounts(&self, newer: &Self) -> Vec<String> {
        let names = self.accounts.iter().chain(&newer.accounts);
        let mut names: Vec<_> = names.map(|account| account.name.clone()).collect();
        names.sort();
        names.dedup();
        let find = |config: &'_ Self, name| {
            let mut accounts = config.accounts.iter();
            accounts.position(|account| account.name == name)
        };
        let is_other = |name: &crate::purchase::AccountName| {
            let own = find(self, name.clone()).and_then(|place| self.accounts.get(place));
            let new = find(newer, name.clone()).and_then(|place| newer.accounts.get(place));
            own != new
        };
        let changed = names.into_iter().filter(is_other);
        changed.map(|name| format!("accounts.{name}")).collect()
    }
}
