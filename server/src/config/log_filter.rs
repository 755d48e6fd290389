//! The rule for log filters: no filter may silence the server by mistake.

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// The crates of this program that write log lines.
const CRATES: [&str; 8] = [
    OWN,
    "h2",
    "hyper_util",
    "reqwest",
    "rustls",
    "rustls_platform_verifier",
    "tonic",
    "tower",
];
const OWN: &str = "tillwatch_server";
/// The modules of this crate.
const MODULES: [&str; 31] = [
    "account",
    "audit",
    "cadence",
    "clock",
    "config",
    "exchange",
    "failpoint",
    "feed",
    "figures",
    "fingerprint",
    "grpc",
    "health",
    "identity",
    "intake",
    "journal",
    "jwt",
    "lifecycle",
    "limits",
    "listener",
    "observation",
    "outlet",
    "ownership",
    "progress",
    "provider",
    "purchase",
    "serve",
    "telemetry",
    "tls",
    "trace",
    "tracker",
    "upstream",
];

/// True if each directive is a level, or names a target of this program. The filter's parser takes
/// any other word for a target that no line has: `warning` would let no line through, not even errors.
pub(super) fn can_be_used(filter: &str) -> bool {
    filter.split(',').all(acts) && EnvFilter::builder().parse(filter).is_ok()
}

/// True if no line of this server itself passes, whatever happens.
pub(super) fn is_mute(filter: &str) -> bool {
    !filter.split(',').any(|directive| {
        let (target, level) = match directive.split_once('=') {
            Some(parts) => parts,
            None if is_level(directive) => (OWN, directive),
            None => (directive, "trace"),
        };
        let is_own = names(target, OWN) || OWN.starts_with(target);
        is_own
            && level
                .parse::<LevelFilter>()
                .is_ok_and(|level| level != LevelFilter::OFF)
    })
}

fn acts(directive: &str) -> bool {
    if is_level(directive) {
        return true;
    }
    match directive.split_once('=') {
        Some((target, level)) => is_level(level) && is_target(target),
        None => is_target(directive),
    }
}

fn is_level(text: &str) -> bool {
    // The parser takes an empty text for a level.
    !text.is_empty() && text.parse::<LevelFilter>().is_ok()
}

/// True if some line can have a target that begins so: a filter compares beginnings.
fn is_target(target: &str) -> bool {
    let Some(module) = target.strip_prefix(OWN).filter(|rest| !rest.is_empty()) else {
        return !target.is_empty() && CRATES.iter().any(|name| begins(name, target));
    };
    let Some(path) = module.strip_prefix("::") else {
        return false;
    };
    MODULES.iter().any(|name| begins(name, path))
}

/// True if a name begins with a target, or a target with the name.
fn begins(name: &str, target: &str) -> bool {
    name.starts_with(target) || names(target, name)
}

/// True if a target is this name or lies below it.
fn names(target: &str, name: &str) -> bool {
    let below = target.strip_prefix(name);
    below.is_some_and(|below| below.is_empty() || below.starts_with("::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_would_silence_the_server_without_a_word_cannot_be_used() {
        let good = [
            "info",
            "WARN",
            "off",
            "3",
            "info,tower=warn",
            "warn,tillwatch_server=debug",
            "tillwatch_server::tracker=debug,info",
            "info,tillwatch_server::tracker::poll=trace",
            "info,hyper=warn",
            "info,h2::codec=off",
            "tillwatch_server",
        ];
        for filter in good {
            assert!(can_be_used(filter), "{filter}");
        }
        let bad = [
            "",
            ",",
            "info,",
            " info",
            "warning",
            "verbose",
            "infos",
            "6",
            "tillwatch_serverr=debug",
            "info,tillwatch_serverr=debug",
            "tillwatch_server::trackers=debug",
            "tillwatch_server:tracker=debug",
            "tillwatch_server=warning",
            "tillwatch_server=",
            "tillwatch-server=info",
            "info,sqlx=warn",
            "[span]=debug",
            "=info",
            "a=b=c",
        ];
        for filter in bad {
            assert!(!can_be_used(filter), "{filter}");
        }
    }

    #[test]
    fn a_filter_that_lets_no_line_of_the_server_through_is_known() {
        let check = |filter, expected| assert_eq!(is_mute(filter), expected, "{filter}");
        check("off", true);
        check("h2=debug", true);
        check("tillwatch_server=off", true);
        check("info", false);
        check("tillwatch_server::tracker=debug", false);
        check("tillwatch=warn", false);
        check("off,tillwatch_server=error", false);
    }

    #[test]
    fn the_modules_that_a_filter_can_name_are_those_that_there_are() {
        let lib = include_str!("../lib.rs").replace("#[cfg(test)]\nmod testing;", "");
        let declared = lib.lines().filter_map(|line| {
            let line = line.strip_prefix("pub ").unwrap_or(line);
            line.strip_prefix("mod ")?.strip_suffix(';')
        });
        assert_eq!(Vec::from_iter(declared), MODULES);
    }
}
