//! A caller of the service: its way in, and the few calls that benchmarks make.

use std::net::SocketAddr;

use tillwatch_proto::v1::{
    CreatePurchaseRequest, DevdraftReference, ProviderReference, create_purchase_request::Order,
    provider_reference::Reference, purchase_service_client::PurchaseServiceClient,
};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use crate::{Failure, authority::Pair, memory::reference};

/// The name in a server's certificate.
pub const SERVER_NAME: &str = "localhost";

/// The generated client, with a caller's token on every call.
pub type Stub = PurchaseServiceClient<InterceptedService<Channel, Bearer>>;

/// Adds a token to every call.
#[derive(Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            let metadata = request.metadata_mut();
            metadata.insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// A way in: the authority that a caller trusts, and its own certificate or token.
#[derive(Clone, Default)]
pub struct Way {
    /// The authority's certificate in PEM. None: the server is plain.
    pub trusted: Option<String>,
    /// The caller's own certificate.
    pub pair: Option<Pair>,
    /// The caller's token.
    pub token: Option<&'static str>,
}

impl Way {
    /// A new connection.
    ///
    /// # Errors
    /// No connection can be made, or TLS not be agreed on.
    pub async fn stub(&self, address: SocketAddr) -> Result<Stub, Failure> {
        let scheme = if self.trusted.is_some() {
            "https"
        } else {
            "http"
        };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))?
            .tcp_nodelay(true)
            .initial_connection_window_size(8 << 20);
        if let Some(trusted) = &self.trusted {
            let mut tls = ClientTlsConfig::new()
                .ca_certificate(Certificate::from_pem(trusted))
                .domain_name(SERVER_NAME);
            if let Some(Pair { certificate, key }) = &self.pair {
                tls = tls.identity(Identity::from_pem(certificate, key));
            }
            endpoint = endpoint.tls_config(tls)?;
        }
        let token = self.token.map(|token| format!("Bearer {token}").parse());
        let bearer = Bearer(token.transpose()?);
        let channel = endpoint.connect().await?;
        Ok(PurchaseServiceClient::with_interceptor(channel, bearer))
    }
}

/// Takes over a purchase that exists at an account, and returns its id.
///
/// # Errors
/// The service does not take it.
pub async fn adopt(stub: &mut Stub, account: &str, number: u32) -> Result<String, Failure> {
    let reference = DevdraftReference {
        transaction_id: reference(number),
    };
    let request = CreatePurchaseRequest {
        idempotency_key: format!("{account} {number}"),
        account: account.to_owned(),
        order: Some(Order::Existing(ProviderReference {
            reference: Some(Reference::Devdraft(reference)),
        })),
        ..CreatePurchaseRequest::default()
    };
    let answer = stub.create_purchase(request).await?.into_inner();
    let purchase = answer.purchase.ok_or("an answer without a purchase")?;
    Ok(purchase.id)
}
