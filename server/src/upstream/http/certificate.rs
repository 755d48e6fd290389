//! Notes if a provider refused this client's certificate, or the lack of one.
//!
//! With TLS 1.3 the client's half of the handshake ends before the provider looks at the certificate.
//! The refusal is an alert that arrives after the request was written, and looks like a lost answer.

use std::{error::Error, io};

use rustls::AlertDescription;

/// True if the provider ended the handshake because of this client's certificate: then it has read no
/// byte of the request. These alerts belong to the handshake alone, since this client neither
/// renegotiates, nor authenticates later, nor sends early data.
pub(super) fn is_refused(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        // The source of such an error is the source of its inner one, so the walk would pass that by.
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        if let Some(rustls::Error::AlertReceived(alert)) =
            inner.and_then(|inner| inner.downcast_ref())
        {
            return is_about_a_certificate(*alert);
        }
        cause = error.source();
    }
    false
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
