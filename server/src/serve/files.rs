//! The share of the process's open files between long polls and callers' connections.

use crate::{config, listener};

/// Files that are neither connections nor long polls: the database, logs, and other requests to
/// providers.
const RESERVED: u64 = 512;
/// The part of all files that long polls may take. Ours.
const HELD_PART: u64 = 8;
/// The long polls that an account holds at the least, whatever the limit.
const HELD_LEAST: u32 = 8;

/// Lowers the accounts' long polls if the limit of open files is low, and returns the number of
/// connections that fit beside them. Warns if either is fewer than wanted.
pub(super) fn share(accounts: &mut [config::Account], connections: u32, file_limit: u64) -> u32 {
    let holding = || accounts.iter().filter(|account| account.policy.long_poll);
    let count = u64::try_from(holding().count()).unwrap_or(u64::MAX).max(1);
    let each = u32::try_from(file_limit / HELD_PART / count).unwrap_or(u32::MAX);
    let each = each.max(HELD_LEAST);
    if let Some(wanted) = holding().map(|account| account.policy.held_max).max()
        && each < wanted
    {
        tracing::warn!(
            wanted,
            long_polls = each,
            file_limit,
            "the limit of open files allows fewer long polls of an account"
        );
    }
    let mut held = 0;
    for account in accounts
        .iter_mut()
        .filter(|account| account.policy.long_poll)
    {
        account.policy.held_max = account.policy.held_max.min(each);
        held += u64::from(account.policy.held_max);
    }
    listener::connections_within(connections, file_limit, RESERVED + held)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts(of: &[&str]) -> Vec<config::Account> {
        let account = |(number, provider): (usize, &&str)| {
            let row = crate::provider::registered(provider).unwrap();
            config::Account {
                name: crate::purchase::AccountName::new(&format!("a{number}")),
                provider: row.name,
                base_url: "https://pay.example.com".parse().unwrap(),
                proxy: None,
                tls: Default::default(),
                allow_insecure: false,
                allow_private_networks: false,
                secrets: Default::default(),
                policy: (row.policy)(),
            }
        };
        of.iter().enumerate().map(account).collect()
    }

    #[test]
    fn long_polls_fit_the_limit_of_open_files_beside_the_connections() {
        let table: [(&[&str], u64, u32, u32); 6] = [
            (&["phygitals"], 1_048_576, 1_000, 20_000),
            (&["phygitals", "masumi"], 4_096, 512, 2_816),
            (&["phygitals", "phygitals"], 4_096, 256, 2_816),
            (&["phygitals"], 1_024, 128, 128),
            (&["phygitals"], 16, 8, 1),
            (&["masumi"], 1_024, 1_000, 256),
        ];
        for (of, file_limit, held, connections) in table {
            let mut accounts = accounts(of);
            let fitting = share(&mut accounts, 20_000, file_limit);
            let first = accounts[0].policy.held_max;
            assert_eq!((first, fitting), (held, connections), "{of:?} {file_limit}");
        }
    }
}
