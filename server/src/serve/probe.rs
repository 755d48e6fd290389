//! The question of a health probe, asked by a process of its own: for images without a shell.

use std::time::Duration;

use tillwatch_proto::health::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic::{Code, transport::Endpoint};

/// The longest time of the whole question.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The reason why a probe has no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The address cannot be asked.
    #[error("{address} must be host:port or unix:/path")]
    Address {
        /// The address.
        address: String,
    },
    /// Nobody answered in time.
    #[error("no answer from {address}")]
    Silent {
        /// The address.
        address: String,
    },
    /// The server does not know the service.
    #[error("the server does not know the service {service:?}")]
    Unknown {
        /// The service.
        service: String,
    },
    /// The service is not served now.
    #[error("the state is {state}")]
    NotServing {
        /// Its state, as the health protocol names it.
        state: &'static str,
    },
}

/// Asks a server over plain text if a service is served; an empty name stands for readiness. It takes
/// 3 s at the most.
///
/// # Errors
/// See [`ProbeError`]: in each case the answer is no.
pub async fn probe(address: &str, service: &str) -> Result<(), ProbeError> {
    let wrong = || ProbeError::Address {
        address: address.to_owned(),
    };
    let uri = match address.strip_prefix("unix:") {
        Some(path) if path.starts_with('/') => address.to_owned(),
        Some(_) => return Err(wrong()),
        None => format!("http://{address}"),
    };
    let endpoint = Endpoint::from_shared(uri).map_err(|_| wrong())?;
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let asked = async {
        let channel = endpoint.connect().await.ok()?;
        Some(HealthClient::new(channel).check(request).await)
    };
    let answer = tokio::time::timeout(TIMEOUT, asked).await.ok().flatten();
    match answer {
        Some(Ok(answer)) => match answer.into_inner().status() {
            ServingStatus::Serving => Ok(()),
            other => Err(ProbeError::NotServing {
                state: other.as_str_name(),
            }),
        },
        Some(Err(status)) if status.code() == Code::NotFound => Err(ProbeError::Unknown {
            service: service.to_owned(),
        }),
        Some(Err(_)) | None => Err(ProbeError::Silent {
            address: address.to_owned(),
        }),
    }
}
