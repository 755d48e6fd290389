//! Certificates are kept fresh: their files are looked at every ten seconds and at each SIGHUP, and an
//! end that is near is told.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;

use crate::{
    audit::Audit,
    clock::Clock,
    purchase::Timestamp,
    tls::{ServerTls, ServerTlsError},
};

/// The interval of looks at the files.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(10);
/// A certificate that ends within this time is worth a warning.
const ENDS_SOON: Duration = Duration::from_secs(14 * 86_400);
/// The interval of these warnings.
const WARNED_EVERY: Duration = Duration::from_secs(86_400);

/// Looks after the certificates without end, each ten seconds and when it is asked.
pub(super) async fn keep(tls: Option<ServerTls>, clock: Clock, asked: Arc<Notify>, audit: Audit) {
    let mut warned: Option<Timestamp> = None;
    loop {
        if let Some(tls) = &tls {
            let now = clock.now();
            let expires = tls.figures().expires;
            let is_new = warned.is_none_or(|warned| now.since(warned) >= WARNED_EVERY);
            if expires < now.plus(ENDS_SOON) && is_new {
                warned = Some(now);
                tracing::warn!(%expires, "the server's certificate ends soon, or has ended");
            }
        }
        tokio::select! {
            biased;
            () = asked.notified() => {}
            () = tokio::time::sleep(LOOKED_AT_EVERY) => {}
        }
        if let Some(tls) = &tls {
            look(tls, &mut warned, &audit).await;
        }
    }
}

async fn look(tls: &ServerTls, warned: &mut Option<Timestamp>, audit: &Audit) {
    let files = tls.clone();
    let read = tokio::task::spawn_blocking(move || files.reload()).await;
    match read {
        Ok(Ok(true)) => {
            *warned = None;
            audit.reloaded("TLS_APPLIED");
            let expires = tls.figures().expires;
            tracing::info!(%expires, "new files of TLS are used for new connections");
        }
        Ok(Ok(false)) => {}
        Ok(Err(error)) => {
            audit.reloaded("TLS_REFUSED");
            tell(&error);
        }
        Err(error) => tracing::error!(%error, "the files of TLS were not looked at"),
    }
}

fn tell(error: &ServerTlsError) {
    let error: &dyn std::error::Error = error;
    tracing::error!(
        error,
        "changed files of TLS cannot be used; the older ones are kept"
    );
}
