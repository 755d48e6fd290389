//! The end of a command, good or bad, and the words for a bad one.

use std::{fmt::Write as _, io, path::PathBuf};

use tillwatch::{
    Error,
    json::JsonError,
    timeline::{plain, short},
};

/// The good ends of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Well,
    /// The server does not want requests.
    NotServing,
    /// The watched purchase ended otherwise than completed.
    Unsuccessful,
    Interrupted,
    /// Nobody reads a watch's output any more.
    Unread,
    Terminated,
}

impl Ended {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Well => 0,
            Self::NotServing => 1,
            Self::Unsuccessful => 3,
            Self::Interrupted => 130,
            // The code of a command that SIGPIPE ends.
            Self::Unread => 141,
            Self::Terminated => 143,
        }
    }
}

/// The reason why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Client(#[from] Error),
    /// A create failed as `Client` says. A repeat is safe with this key alone.
    #[error("{error}")]
    Create { error: Error, key: String },
    #[error("{what}: {error}")]
    Input { what: String, error: JsonError },
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("the answer cannot be shown: {0}")]
    Json(#[from] JsonError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Failure {
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Input { .. } | Self::File { .. } | Self::Client(Error::Config(_)) => 2,
            Self::Client(_) | Self::Create { .. } | Self::Json(_) | Self::Io(_) => 1,
        }
    }

    pub(crate) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The failure as lines for a person, with a line end.
    pub(crate) fn report(&self) -> String {
        let mut lines = vec![format!("error: {}", plain(&self.to_string()))];
        match self {
            Self::Client(error) => lines.extend(details(error)),
            Self::Create { error, key } => {
                lines.extend(details(error));
                // After a defect of its own the service may have bought too.
                if error.is_transient() || matches!(error, Error::Server(_)) {
                    let key = plain(key);
                    lines.push(format!(
                        "  the purchase may exist: repeat with --key {key}, never with another"
                    ));
                }
            }
            Self::Input { .. } | Self::File { .. } | Self::Json(_) | Self::Io(_) => {}
        }
        let mut report = lines.join("\n");
        report.push('\n');
        report
    }
}

fn details(error: &Error) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(refusal) = error.refusal() {
        for violation in &refusal.violations {
            let (field, rule) = (plain(&violation.field), plain(&violation.rule));
            lines.push(format!("  {field}: {rule}"));
        }
        if !refusal.differing_fields.is_empty() {
            let fields = plain(&refusal.differing_fields.join(", "));
            lines.push(format!("  differs from the first order in: {fields}"));
        }
        if let Some(id) = &refusal.purchase_id {
            lines.push(format!("  purchase: {}", plain(id)));
        }
    }
    if let Some(wait) = error.retry_after() {
        let mut line = String::from("  retry after ");
        let exact = if wait.as_secs() == 0 {
            format!("{}ms", wait.as_millis())
        } else {
            short(wait)
        };
        // Writing to a string cannot fail.
        let _ = write!(line, "{exact}");
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tillwatch::{Refusal, Violation};
    use tonic::Code;

    use super::*;

    fn refusal() -> Box<Refusal> {
        Box::new(Refusal {
            code: Code::InvalidArgument,
            reason: "INVALID_REQUEST".to_owned(),
            message: "two fields are wrong".to_owned(),
            purchase_id: Some("pur_1".to_owned()),
            retry_after: Some(Duration::from_secs(65)),
            violations: vec![Violation {
                field: "labels".to_owned(),
                rule: "at most 16".to_owned(),
            }],
            differing_fields: vec!["amount".to_owned(), "customer.email".to_owned()],
        })
    }

    #[test]
    fn an_error_is_told_once_with_all_that_helps() {
        let report = Failure::from(Error::Invalid(refusal())).report();
        let expected = "error: INVALID_REQUEST: two fields are wrong
  labels: at most 16
  differs from the first order in: amount, customer.email
  purchase: pur_1
  retry after 1m05s
";
        assert_eq!(report, expected);
    }

    #[test]
    fn an_unclear_create_names_the_key_to_repeat_with() {
        let check = |error, expected| {
            let key = "k-1".to_owned();
            let report = Failure::Create { error, key }.report();
            assert_eq!(
                report.contains("repeat with --key k-1"),
                expected,
                "{report}"
            );
        };
        check(Error::Deadline(refusal()), true);
        check(Error::Server(refusal()), true);
        check(Error::Refused(refusal()), false);
    }

    #[test]
    fn a_servers_words_cannot_steer_the_terminal() {
        let mut evil = refusal();
        evil.message = "x\u{1b}[2J".to_owned();
        let report = Failure::from(Error::Invalid(evil)).report();
        assert!(!report.contains('\u{1b}'), "{report:?}");
    }

    #[test]
    fn exit_codes_tell_wrong_input_from_errors() {
        assert_eq!(Failure::from(Error::Config("x".to_owned())).code(), 2);
        assert_eq!(Failure::from(Error::Invalid(refusal())).code(), 1);
        let codes = [
            Ended::Well,
            Ended::NotServing,
            Ended::Unsuccessful,
            Ended::Interrupted,
        ];
        assert_eq!(codes.map(Ended::code), [0, 1, 3, 130]);
    }
}
