//! The arguments of the command line.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, Subcommand};
use tillwatch::{
    proto::v1::{PurchaseState, WatchUntil},
    timeline::state_word,
};

const EXIT_CODES: &str = "\
Exit codes:
  0    done; of a watch: the purchase was COMPLETED
  1    an error, written once to standard error; of `health`: not serving
  2    the command line or an input file is wrong; nothing was sent
  3    the watched purchase ended otherwise (FAILED, EXPIRED, CANCELED, RETURNED, REFUNDED, …)
  130  interrupted (Ctrl-C); 143 terminated. A created purchase goes on at the service.
  141  nobody reads a watch's output any more, and the purchase has not ended";

/// Creates purchases at payment providers and follows them until they are done.
#[derive(Debug, Parser)]
#[command(name = "tillwatch", version, after_help = EXIT_CODES)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// Print one proto-JSON object per line, for scripts.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Args {
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// True if the command follows a purchase to its end. The exit code then tells that end.
    pub(crate) fn follows(&self) -> bool {
        match &self.command {
            Command::Watch(_) => true,
            Command::Create(create) => create.watch,
            _ => false,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Connection {
    /// The server: host:port, http://…, https://… or unix:/path.
    #[arg(
        long,
        global = true,
        env = "TILLWATCH_SERVER",
        default_value = "127.0.0.1:50051"
    )]
    pub(crate) server: String,
    /// The file that holds the caller's bearer token.
    #[arg(long, global = true, env = "TILLWATCH_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The CA certificates (PEM) to check the server's certificate against; implies https.
    #[arg(long, global = true, env = "TILLWATCH_TLS_CA", value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// The caller's own certificate (PEM).
    #[arg(long, global = true, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The key (PEM) of --tls-cert.
    #[arg(long, global = true, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a purchase, or take over a purchase that exists at the provider.
    Create(Create),
    /// Show a purchase's newest status.
    Get(Get),
    /// Follow a purchase until it is over, across lost connections.
    Watch(Watch),
    /// List purchases, newest first.
    List(List),
    /// List the provider accounts with their health and budget.
    Accounts,
    /// Ask the provider now.
    Refresh {
        /// The purchase's id, pur_….
        id: String,
    },
    /// Settle a purchase by hand if nothing else can.
    Resolve(Resolve),
    /// Ask if the server wants requests.
    Health {
        /// A service's full name; without it, the server as a whole.
        #[arg(default_value = "", hide_default_value = true)]
        service: String,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// The order as JSON with one key, its kind: {"devdraft": {"stablecoin": {…}}} or
    /// {"existing": {…}}; - reads standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) order: PathBuf,
    /// The idempotency key; a repeat with the same key buys once. If absent, generated and printed.
    #[arg(long)]
    pub(crate) key: Option<String>,
    /// The account to buy with.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) account: String,
    /// An annotation of yours; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    pub(crate) label: Vec<(String, String)>,
    /// The longest time to keep trying, always with the same key.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    pub(crate) within: Duration,
    /// Follow the purchase until it is terminal.
    #[arg(long)]
    pub(crate) watch: bool,
}

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("purchase").required(true))]
pub(crate) struct Get {
    /// The purchase's id, pur_….
    #[arg(group = "purchase")]
    pub(crate) id: Option<String>,
    /// The idempotency key that it was created with.
    #[arg(long, group = "purchase")]
    pub(crate) key: Option<String>,
    /// Wait until the revision is greater than this one.
    #[arg(long, value_name = "REVISION", requires = "wait")]
    pub(crate) after: Option<u32>,
    /// The longest time to wait for it; 60s at most.
    #[arg(long, requires = "after", value_parser = humantime::parse_duration)]
    pub(crate) wait: Option<Duration>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Watch {
    /// The purchase's id, pur_….
    pub(crate) id: String,
    /// Begin with the revision after this one; 0 shows all. Without it: begin with the newest.
    #[arg(long, value_name = "REVISION")]
    pub(crate) after: Option<u32>,
    /// Stop at a terminal status, or stay for refunds and disputes until nothing can follow.
    #[arg(long, default_value = "terminal", value_parser = until)]
    pub(crate) until: WatchUntil,
    /// Give up if the server stays away this long. Without it: never.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) patience: Option<Duration>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Only this state, such as paid or in-review; may be repeated.
    #[arg(long, value_parser = state)]
    pub(crate) state: Vec<PurchaseState>,
    /// Only this account; may be repeated.
    #[arg(long)]
    pub(crate) account: Vec<String>,
    /// Only this provider; may be repeated.
    #[arg(long)]
    pub(crate) provider: Vec<String>,
    /// Only with this label; all must match.
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    pub(crate) label: Vec<(String, String)>,
    /// Only purchases that need a person.
    #[arg(long)]
    pub(crate) attention: bool,
    /// At most this many.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,
}

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("resolution").required(true))]
pub(crate) struct Resolve {
    /// The purchase's id, pur_….
    pub(crate) id: String,
    /// The revision on which the decision rests; refused if there is a newer one.
    #[arg(long)]
    pub(crate) revision: u32,
    /// The provider's reference, as JSON: {"devdraft": {"transactionId": "txn_…"}}.
    #[arg(long, value_name = "JSON", group = "resolution")]
    pub(crate) reference: Option<String>,
    /// The provider never created it; the note says why that is sure.
    #[arg(long, value_name = "NOTE", group = "resolution")]
    pub(crate) not_created: Option<String>,
    /// Follow it no further; the note says why.
    #[arg(long, value_name = "NOTE", group = "resolution")]
    pub(crate) stop_tracking: Option<String>,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

fn until(text: &str) -> Result<WatchUntil, String> {
    match text {
        "terminal" => Ok(WatchUntil::Terminal),
        "final" => Ok(WatchUntil::Final),
        _ => Err("expected terminal or final".to_owned()),
    }
}

fn state(text: &str) -> Result<PurchaseState, String> {
    let word = text.to_ascii_uppercase().replace('-', "_");
    let name = match word.strip_prefix("PURCHASE_STATE_") {
        Some(_) => word,
        None => format!("PURCHASE_STATE_{word}"),
    };
    let state = PurchaseState::from_str_name(&name);
    let state = state.filter(|state| *state != PurchaseState::Unspecified);
    state.ok_or_else(|| {
        let states = (1..).map_while(|number| PurchaseState::try_from(number).ok());
        let words = states.map(|state| state_word(state.into()).to_lowercase());
        let known: Vec<_> = words.collect();
        format!("no such state; known: {}", known.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn each_command_is_read() {
        for line in [
            "tillwatch create --order - --key k --account a --label a=b --label c= --watch",
            "tillwatch get pur_1 --after 3 --wait 30s",
            "tillwatch get --key k",
            "tillwatch --json watch pur_1 --after 0 --until final --patience 2m",
            "tillwatch list --state PURCHASE_STATE_PAID --state in-review --attention --limit 5 --label a=b",
            "tillwatch accounts --server unix:/run/x --token-file t --tls-ca c",
            "tillwatch refresh pur_1",
            "tillwatch resolve pur_1 --revision 2 --not-created sure",
            "tillwatch health tillwatch.v1.PurchaseService --json",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
        }
    }

    #[test]
    fn a_wrong_command_line_is_refused_and_says_why() {
        let check = |line: &str, about: &str| {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(about), "{line}: {error}");
        };
        check("tillwatch get", "<ID|--key <KEY>>");
        check("tillwatch get pur_1 --after 3", "--wait");
        check("tillwatch list --state payed", "awaiting_payment");
        check("tillwatch list --limit 0", "not in 1..");
        check("tillwatch list --label x", "KEY=VALUE");
        check("tillwatch watch pur_1 --until done", "terminal or final");
        check("tillwatch resolve pur_1 --revision 2", "--not-created");
        let both = "tillwatch resolve p --revision 2 --not-created a --stop-tracking b";
        check(both, "cannot be used with");
    }

    #[test]
    fn help_tells_the_exit_codes() {
        let help = Args::command().render_long_help().to_string();
        assert!(help.contains("130  interrupted"), "{help}");
    }
}
