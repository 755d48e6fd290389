//! A collector of traces that takes everything and keeps nothing.

use std::{net::SocketAddr, thread};

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use tokio::sync::oneshot;
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

use crate::{Failure, upstream::on_this_thread};

/// A collector on a thread of its own, which ends when this is dropped.
pub struct Collector {
    /// The address at which it listens.
    pub address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

struct Taker;

#[tonic::async_trait]
impl TraceService for Taker {
    async fn export(
        &self,
        _: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Starts a collector that speaks gRPC.
    ///
    /// # Errors
    /// No port is free.
    pub fn start() -> Result<Self, Failure> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel::<()>();
        thread::spawn(move || {
            let serving = async {
                let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
                    return;
                };
                let service = TraceServiceServer::new(Taker);
                let server = Server::builder().add_service(service);
                let _ = server
                    .serve_with_incoming_shutdown(TcpIncoming::from(listener), async {
                        let _ = stopped.await;
                    })
                    .await;
            };
            let _ = on_this_thread(serving);
        });
        Ok(Self {
            address,
            _stop: stop,
        })
    }
}
