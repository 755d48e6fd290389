//! A bare tonic server with the same contract: GetStatus answers the same message each time, nothing
//! else does anything.

use std::{fs, net::SocketAddr, path::PathBuf};

use prost::Message as _;
use tillwatch_proto::v1::{
    CreatePurchaseRequest, CreatePurchaseResponse, GetStatusRequest, GetStatusResponse,
    ListAccountsRequest, ListAccountsResponse, ListPurchasesRequest, ListPurchasesResponse,
    RefreshStatusRequest, RefreshStatusResponse, ResolvePurchaseRequest, ResolvePurchaseResponse,
    WatchPurchasesRequest, WatchPurchasesResponse, WatchStatusRequest, WatchStatusResponse,
    purchase_service_server::{PurchaseService, PurchaseServiceServer},
};
use tokio_stream::Empty;
use tonic::{
    Request, Response, Status,
    transport::{Identity, Server, ServerTlsConfig, server::TcpIncoming},
};

use crate::{Failure, upstream::on_this_thread};

/// The word before the address in its log.
pub const MARKER: &str = "bare address=";

/// The answer, and the files of TLS.
#[derive(clap::Args)]
pub struct Arguments {
    /// The file with the answer, encoded.
    #[arg(long)]
    pub answer: PathBuf,
    /// The certificate. Without it the server is plain.
    #[arg(long, requires = "key")]
    pub certificate: Option<PathBuf>,
    /// The certificate's key.
    #[arg(long)]
    pub key: Option<PathBuf>,
}

/// Serves on a free port without end.
///
/// # Errors
/// A file cannot be read, or a socket not be made.
#[expect(clippy::print_stderr, reason = "the starter reads the address there")]
pub fn serve(arguments: &Arguments) -> Result<(), Failure> {
    let answer = GetStatusResponse::decode(fs::read(&arguments.answer)?.as_slice())?;
    let mut server = Server::builder();
    if let (Some(certificate), Some(key)) = (&arguments.certificate, &arguments.key) {
        let identity = Identity::from_pem(fs::read(certificate)?, fs::read(key)?);
        server = server.tls_config(ServerTlsConfig::new().identity(identity))?;
    }
    on_this_thread(async {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let incoming = TcpIncoming::bind(any)?.with_nodelay(Some(true));
        eprintln!("{MARKER}{}", incoming.local_addr()?);
        let service = PurchaseServiceServer::new(Bare { answer });
        let served = server.add_service(service).serve_with_incoming(incoming);
        served.await.map_err(Failure::from)
    })?
}

struct Bare {
    answer: GetStatusResponse,
}

/// The answer of all calls but one.
fn absent<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("bare"))
}

#[tonic::async_trait]
impl PurchaseService for Bare {
    type WatchStatusStream = Empty<Result<WatchStatusResponse, Status>>;
    type WatchPurchasesStream = Empty<Result<WatchPurchasesResponse, Status>>;

    async fn get_status(
        &self,
        _: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        Ok(Response::new(self.answer.clone()))
    }

    async fn create_purchase(
        &self,
        _: Request<CreatePurchaseRequest>,
    ) -> Result<Response<CreatePurchaseResponse>, Status> {
        absent()
    }

    async fn watch_status(
        &self,
        _: Request<WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        absent()
    }

    async fn watch_purchases(
        &self,
        _: Request<WatchPurchasesRequest>,
    ) -> Result<Response<Self::WatchPurchasesStream>, Status> {
        absent()
    }

    async fn list_purchases(
        &self,
        _: Request<ListPurchasesRequest>,
    ) -> Result<Response<ListPurchasesResponse>, Status> {
        absent()
    }

    async fn refresh_status(
        &self,
        _: Request<RefreshStatusRequest>,
    ) -> Result<Response<RefreshStatusResponse>, Status> {
        absent()
    }

    async fn resolve_purchase(
        &self,
        _: Request<ResolvePurchaseRequest>,
    ) -> Result<Response<ResolvePurchaseResponse>, Status> {
        absent()
    }

    async fn list_accounts(
        &self,
        _: Request<ListAccountsRequest>,
    ) -> Result<Response<ListAccountsResponse>, Status> {
        absent()
    }
}
