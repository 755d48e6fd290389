//! Connections, and the meaning of their failures.

use std::{
    collections::HashMap, error::Error as _, fmt, future::poll_fn, sync::Arc, time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tokio::task::AbortHandle;
use tokio_postgres::{
    AsyncMessage, Client, Config, Error, NoTls, Notification, Row, Socket, Statement,
    error::{Severity, SqlState},
    tls::{MakeTlsConnect, TlsConnect},
    types::{ToSql, Type},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::settings::{Settings, Tls};
use crate::journal::JournalError;

/// The time for a whole connection: all hosts and addresses, TLS and the password.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// The code by which the store's functions refuse a call of an opening that is over.
const OTHER_OPENING: &str = "TW001";
/// The code by which they end a call because of another commit that came in between.
const OVERTAKEN: &str = "TW002";

/// Makes connections.
pub(super) struct Connector {
    config: Config,
    tls: Option<MakeRustlsConnect>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Connector")
            .field("is_encrypted", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}

impl Connector {
    /// The way that the settings say. Reads the authorities that vouch for the server.
    pub(super) fn new(settings: &Settings) -> Result<Self, JournalError> {
        Ok(Self {
            config: settings.config.clone(),
            tls: tls(&settings.tls).map_err(JournalError::unusable)?,
        })
    }

    pub(super) async fn connect(&self) -> Result<Session, Trouble> {
        self.listening(|_| {}).await
    }

    /// A connection with a listener to the server's notifications, which is dropped with the connection.
    pub(super) async fn listening(
        &self,
        hears: impl Fn(&Notification) + Send + 'static,
    ) -> Result<Session, Trouble> {
        let connecting = async {
            match &self.tls {
                None => session(&self.config, NoTls, hears).await,
                Some(tls) => session(&self.config, tls.clone(), hears).await,
            }
        };
        match tokio::time::timeout(CONNECT_MAX, connecting).await {
            Ok(connected) => connected.map_err(|error| Trouble::of(&error)),
            Err(_) => Err(Trouble::lost("no connection within 10 s")),
        }
    }
}

async fn session<T>(
    config: &Config,
    tls: T,
    hears: impl Fn(&Notification) + Send + 'static,
) -> Result<Session, Error>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
    T::TlsConnect: TlsConnect<Socket>,
{
    let (client, mut connection) = config.connect(tls).await?;
    // It ends with its client, or by `cut`. An error of it is its client's as well.
    let driver = tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(notification) = message {
                hears(&notification);
            }
        }
    });
    Ok(Session {
        client,
        driver: driver.abort_handle(),
        statements: HashMap::new(),
    })
}

fn tls(tls: &Tls) -> Result<Option<MakeRustlsConnect>, String> {
    let mut roots = RootCertStore::empty();
    match tls {
        Tls::Off => return Ok(None),
        Tls::System => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
        }
        Tls::File(path) => {
            let unread = || format!("the authorities in {} cannot be read", path.display());
            let found = CertificateDer::pem_file_iter(path).map_err(|_| unread())?;
            for certificate in found {
                let certificate = certificate.map_err(|_| unread())?;
                roots.add(certificate).map_err(|_| unread())?;
            }
        }
    }
    if roots.is_empty() {
        return Err("there is no authority that could vouch for the server".to_owned());
    }
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Some(MakeRustlsConnect::new(config)))
}

/// One connection, with its prepared statements.
pub(super) struct Session {
    client: Client,
    driver: AbortHandle,
    statements: HashMap<&'static str, Statement>,
}

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Session")
    }
}

/// A statement with its values.
pub(super) enum Asked<'value> {
    /// One of the program's own texts, which is prepared once.
    Own(&'static str, &'value [&'value (dyn ToSql + Sync)]),
    /// A text that was made for one question.
    Made(&'value str, &'value [(&'value (dyn ToSql + Sync), Type)]),
}

impl Session {
    /// True if it is known to be of no further use.
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// The rows that answer a statement.
    pub(super) async fn rows(&mut self, statement: &Asked<'_>) -> Result<Vec<Row>, Trouble> {
        let rows = match *statement {
            Asked::Own(sql, values) => {
                let prepared = self.prepared(sql).await?;
                self.client.query(&prepared, values).await
            }
            Asked::Made(sql, values) => self.client.query_typed(sql, values).await,
        };
        rows.map_err(|error| Trouble::of(&error))
    }

    async fn prepared(&mut self, sql: &'static str) -> Result<Statement, Trouble> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let prepared = self.client.prepare(sql).await;
        let prepared = prepared.map_err(|error| Trouble::of(&error))?;
        self.statements.insert(sql, prepared.clone());
        Ok(prepared)
    }

    /// Runs statements without values or answers.
    pub(super) async fn execute(&self, sql: &str) -> Result<(), Trouble> {
        let done = self.client.batch_execute(sql).await;
        done.map_err(|error| Trouble::of(&error))
    }

    /// Cuts the connection off, whatever is under way. The server ends what it is at by itself: a
    /// request to cancel could make a commit that waits for its standby look done.
    pub(super) fn cut(self) {
        self.driver.abort();
    }
}

/// The reason why a statement has no answer.
#[derive(Debug, Clone)]
pub(super) enum Trouble {
    /// The way to the server is gone: nobody knows if the statement was run.
    Lost(JournalError),
    /// The server has not answered in time, and may still be at it.
    Silent(JournalError),
    /// The server has refused the statement, and nothing of it is done.
    Refused(Refusal, JournalError),
}

/// The kinds of refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Another opening has the store.
    OtherOpening,
    /// Another transaction came in between. The same statement finds what that one has done.
    Rivalry,
    /// A value, or the place of it, was not to the server's liking: about this statement alone.
    Values,
    /// The server could not: a full disk, a lock that nobody gives, no more memory.
    Server,
}

impl Trouble {
    pub(super) fn lost(why: impl fmt::Display) -> Self {
        Self::Lost(JournalError::unavailable(why))
    }

    pub(super) fn of(error: &Error) -> Self {
        let Some(answer) = error.as_db_error() else {
            return Self::lost(text(error));
        };
        // Without the detail, which can have values of anybody's row.
        let told = JournalError::unavailable(format_args!(
            "{} ({})",
            answer.message(),
            answer.code().code()
        ));
        // The server ends the connection after any other severity, and could be in the middle of a
        // commit.
        if answer.parsed_severity() != Some(Severity::Error) {
            return Self::Lost(told);
        }
        let refusal = match *answer.code() {
            SqlState::T_R_DEADLOCK_DETECTED
            | SqlState::T_R_SERIALIZATION_FAILURE
            | SqlState::UNIQUE_VIOLATION => Refusal::Rivalry,
            ref code => match code.code().get(..2) {
                _ if code.code() == OTHER_OPENING => Refusal::OtherOpening,
                _ if code.code() == OVERTAKEN => Refusal::Rivalry,
                Some("21" | "22" | "23" | "54") => Refusal::Values,
                _ => Refusal::Server,
            },
        };
        Self::Refused(refusal, told)
    }

    pub(super) fn error(self) -> JournalError {
        match self {
            Self::Lost(error) | Self::Silent(error) | Self::Refused(_, error) => error,
        }
    }
}

/// An error with its causes.
fn text(error: &Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
