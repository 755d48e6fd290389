//! Certificates are kept fresh: their files are looked at every ten seconds and at each SIGHUP, and an
//! end that is near is told.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;

use crate::{
    clock::Clock,
    purchase::Timestamp,
    tls::{Tls, TlsError},
};

/// The interval of looks at the files.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(10);
/// A certificate that ends within this time is worth a warning.
const ENDS_SOON: Duration = Duration::from_secs(14 * 86_400);
/// The interval of these warnings.
const WARNED_EVERY: Duration = Duration::from_secs(86_400);

/// Looks after the certificates without end. Without TLS it answers each wish for a reload with a line
/// in the log.
pub(super) async fn keep(tls: Option<Tls>, clock: Clock, reload: Arc<Notify>) {
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
        let is_asked = tokio::select! {
            biased;
            () = reload.notified() => true,
            () = tokio::time::sleep(LOOKED_AT_EVERY), if tls.is_some() => false,
        };
        let Some(tls) = &tls else {
            tracing::warn!(
                "SIGHUP: this server has no TLS of its own; the files of accounts' TLS are looked at \
                 without it; other settings need a restart"
            );
            continue;
        };
        look(tls, is_asked, &mut warned).await;
    }
}

async fn look(tls: &Tls, is_asked: bool, warned: &mut Option<Timestamp>) {
    let files = tls.clone();
    let read = tokio::task::spawn_blocking(move || files.reload()).await;
    match read {
        Ok(Ok(true)) => {
            *warned = None;
            let expires = tls.figures().expires;
            tracing::info!(%expires, "new files of TLS are used for new connections");
        }
        Ok(Ok(false)) if is_asked => {
            tracing::warn!(
                "SIGHUP: the files of TLS have not changed; other settings need a restart"
            );
        }
        Ok(Ok(false)) => {}
        Ok(Err(error)) => tell(&error),
        Err(error) => tracing::error!(%error, "the files of TLS were not looked at"),
    }
}

fn tell(error: &TlsError) {
    let error: &dyn std::error::Error = error;
    tracing::error!(
        error,
        "changed files of TLS cannot be used; the older ones are kept"
    );
}
