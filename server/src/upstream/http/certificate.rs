//! Tells if a connection failed because of a certificate: the provider's, or this client's.

use std::{error::Error, io};

use rustls::AlertDescription;

/// The certificate that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The provider's, by this client: its authority, its name or its time is not as it must be.
    Providers,
    /// This client's, or the lack of it, by the provider. With TLS 1.3 the client's half of the
    /// handshake ends before the provider looks at the certificate. The refusal is an alert that
    /// arrives after the request was written, and looks like a lost answer.
    ///
    /// The provider has read no byte of the request. These alerts belong to the handshake alone,
    /// since this client neither renegotiates, nor authenticates later, nor sends early data.
    Clients,
}

/// The refusal in an error's chain of causes, if there is one.
pub(super) fn refused(error: &(dyn Error + 'static)) -> Option<Refused> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref() {
            Some(rustls::Error::InvalidCertificate(_)) => return Some(Refused::Providers),
            Some(rustls::Error::AlertReceived(alert)) if is_about_a_certificate(*alert) => {
                return Some(Refused::Clients);
            }
            _ => cause = next(error),
        }
    }
    None
}

/// The next cause. The source of an IO error is the source of its inner error, which would be passed
/// by.
fn next<'chain>(error: &'chain (dyn Error + 'static)) -> Option<&'chain (dyn Error + 'static)> {
    let inner = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    match inner {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

fn is_about_a_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            // An authority of the same name has another key.
            | AlertDescription::DecryptError
    )
}
