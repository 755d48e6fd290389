//! The front of the house: both listeners, from the first moment to the last.

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::FutureExt as _;
use tillwatch_proto::{
    FILE_DESCRIPTOR_SET, health::health_server::HealthServer,
    v1::purchase_service_server::PurchaseServiceServer,
};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tower::ServiceBuilder;

use super::{
    House, Parts, StartError, accounts::Configured, attempts::Attempts, door, keys, late::Late,
    metrics::Collector, reload::Reloads, store::Store,
};
use crate::{
    audit::Audit,
    clock::Clock,
    config::Config,
    grpc,
    health::{self, HealthService, Readiness},
    identity::Directory,
    listener::{self, Listener, Origins, PanicLayer, Port, RoomLayer},
    tls::ServerTls,
};

/// The most of a drain's time that is kept for closing sockets and the journal.
const CLOSING: Duration = Duration::from_secs(1);

/// The services that are served from the first moment, before and around the house.
pub(super) struct Front {
    readiness: Readiness,
    health: Arc<HealthService>,
    purchases: Late<PurchaseServiceServer<grpc::Service>>,
    figures: Arc<OnceLock<Collector>>,
    /// The callers' port, once it is open.
    port: Arc<OnceLock<Port>>,
    /// The state of reloads.
    pub(super) reloads: Reloads,
    /// The callers that are known now.
    callers: Directory,
    /// The TLS of the callers' port, if it has any.
    tls: Option<ServerTls>,
    audit: Audit,
    attempts: Attempts,
    /// Ends the servers.
    stop: CancellationToken,
    /// Closes the connections that are left.
    close: CancellationToken,
}

impl Front {
    pub(super) fn new(
        readiness: Readiness,
        health: Arc<HealthService>,
        callers: Directory,
        tls: Option<ServerTls>,
        audit: Audit,
    ) -> Self {
        Self {
            readiness,
            health,
            purchases: Late::new(),
            figures: Arc::default(),
            port: Arc::default(),
            reloads: Reloads::default(),
            callers,
            tls,
            attempts: Attempts::new(audit.clone()),
            audit,
            stop: CancellationToken::new(),
            close: CancellationToken::new(),
        }
    }

    /// Serves the service's own listener. The task ends once told to stop, and all callers have left.
    pub(super) fn serve(
        &self,
        config: &Config,
        grpc: Listener,
        connections: u32,
    ) -> Result<impl Future<Output = ()> + use<>, StartError> {
        let mut routes = Routes::new(self.purchases.clone())
            .add_service(health_server(&Arc::new(self.readiness.service_at_a_port())));
        if config.listen.reflection {
            let builder = || {
                tonic_reflection::server::Builder::configure()
                    .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                    // With these descriptors a generic client shows an error's reason, not bytes.
                    .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
            };
            let (v1, v1alpha) = (builder().build_v1(), builder().build_v1alpha());
            let v1 = v1.map_err(|_| StartError::Descriptors)?;
            let v1alpha = v1alpha.map_err(|_| StartError::Descriptors)?;
            routes = routes
                .add_service(v1.max_decoding_message_size(door::OPEN_MESSAGE_BYTES_MAX))
                .add_service(v1alpha.max_decoding_message_size(door::OPEN_MESSAGE_BYTES_MAX));
        }
        let service = ServiceBuilder::new()
            .layer(PanicLayer)
            .layer(grpc::TraceLayer)
            .layer(grpc::DeadlineLayer)
            .layer(RoomLayer)
            .service(routes.prepare());
        let callers = self.callers.clone();
        let origins = Origins::new(&config.listen.web_origins);
        let attempts = self.attempts.clone();
        let rules = door::rules(callers, Clock::system(), attempts, connections, origins);
        let port = Port::new(rules);
        let port = self.port.get_or_init(|| port).clone();
        let incoming = grpc.incoming(connections, self.close.clone());
        let incoming = incoming.secured(self.tls.clone());
        Ok(port.serve(incoming, service, self.stop.clone()))
    }

    /// Serves the operators' listener. It ends with the returned tasks.
    pub(super) fn operate(&self, ops: Option<Listener>, connections: u32) -> JoinSet<()> {
        let mut operators = JoinSet::new();
        let Some(ops) = ops else { return operators };
        let incoming = ops.incoming(connections, self.close.clone());
        let (figures, port) = (Arc::clone(&self.figures), Arc::clone(&self.port));
        let (tls, reloads) = (self.tls.clone(), self.reloads.clone());
        let attempts = self.attempts.clone();
        let page = Arc::new(move || {
            let text = figures.get();
            let text = text.map(|figures| {
                figures.text(port.get(), tls.as_ref(), &reloads, &attempts.figures())
            });
            // A house that is not open has no figures, but the format requires the end mark.
            text.unwrap_or_else(|| "# EOF\n".to_owned())
        });
        let routes = health::operations(&self.readiness, health_server(&self.health), page);
        let stop = self.stop.clone().cancelled_owned();
        operators.spawn(async move {
            let served = listener::server()
                .add_routes(routes)
                .serve_with_incoming_shutdown(incoming, stop);
            if let Err(error) = served.await {
                tracing::error!(%error, "the operations listener failed");
            }
        });
        operators
    }

    /// Opens the house of a configuration, and lets callers in.
    pub(super) async fn open(&self, config: &Config) -> Result<House, StartError> {
        let clock = Clock::system();
        let keyring = keys::keyring(config, &clock)?;
        let store = Store::open(&config.store.database, &clock).await?;
        if store.ownership.is_shared() {
            let path = config.store.fingerprint_keys.path();
            keys::agree(store.journal.as_ref(), &keyring, path).await?;
        }
        let configured = Configured::open(&config.accounts, &store.budgets, &clock).await?;
        let (accounts, configured) = configured;
        let parts = Parts {
            clock,
            journal: store.journal,
            ownership: store.ownership,
            budgets: store.budgets,
            board: store.board,
            keyring,
            accounts,
            callers: self.callers.clone(),
            limits: stream_bounds(config),
            retention: config.store.retention,
            audit: self.audit.clone(),
        };
        let (readiness, health) = (self.readiness.clone(), Arc::clone(&self.health));
        let mut house = House::open_as(parts, configured, readiness, health).await?;
        house.watch(Clock::system()).map_err(StartError::Thread)?;
        self.figures.get_or_init(|| house.figures.clone());
        self.purchases.open(house.service());
        Ok(house)
    }

    /// Ends everything in order, within `drain`. New connections are answered until the house is
    /// drained: callers hear that they should go elsewhere, and a probe that the process is alive.
    pub(super) async fn drain(&self, house: House, serving: impl Future, drain: Duration) {
        let end = Instant::now() + drain;
        // The time for closing is a part of the drain's time.
        let waits_until = end - (drain / 10).min(CLOSING);
        let mut serving = pin!(serving.fuse());
        // Readiness turns first, streams end, and answers to requests under way are heard.
        let drained = {
            let mut drained = pin!(tokio::time::timeout_at(waits_until, house.drain()));
            loop {
                tokio::select! {
                    biased;
                    drained = &mut drained => break drained,
                    _ = &mut serving => {}
                }
            }
        };
        if drained.is_err() {
            tracing::warn!("requests to providers were still under way when the drain ended");
        }
        let left = waits_until.saturating_duration_since(Instant::now());
        match listener::drain(serving, &self.stop, &self.close, left).await {
            listener::Drained::Whole(_) => tracing::info!("drained"),
            listener::Drained::Closed(_) => tracing::info!("drained; connections were closed"),
            listener::Drained::Abandoned => tracing::warn!("gave up on open connections"),
        }
        self.audit.close(CLOSING).await;
        // Everything acknowledged is committed, so the exit need not wait for a disk that hangs.
        if tokio::time::timeout(CLOSING, house.close()).await.is_err() {
            tracing::warn!("gave up on closing the journal");
        }
    }
}

/// The bounds of streams that settings say.
pub(super) fn stream_bounds(config: &Config) -> grpc::StreamBounds {
    grpc::StreamBounds {
        streams: config.limits.streams,
        stream_age: config.listen.stream_age,
    }
}

/// The health service of a house.
pub(super) fn health_server(health: &Arc<HealthService>) -> HealthServer<HealthService> {
    HealthServer::from_arc(Arc::clone(health))
        .max_decoding_message_size(door::OPEN_MESSAGE_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use tillwatch_proto::{
        health::{
            HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
        },
        v1::{ListPurchasesRequest, purchase_service_client::PurchaseServiceClient},
    };
    use tonic::transport::Endpoint;

    use super::*;

    /// A long journal takes its time, and probes ask from the first moment.
    #[tokio::test]
    async fn until_the_house_is_open_health_says_so_and_callers_wait() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tillwatch.toml");
        let database = folder.path().join("tillwatch.db");
        let text = format!(
            "[store]\nurl = \"sqlite:{}\"\n[callers.local]\nanonymous = true\n\
             accounts = [\"*\"]\nscopes = [\"read\"]\n",
            database.display()
        );
        std::fs::write(&file, text).unwrap();
        let config = Config::load(Some(&file), std::iter::empty()).unwrap();
        let (readiness, health) = health::health().await;
        let callers = Directory::new(super::super::callers(&config.callers));
        let front = Front::new(readiness, Arc::new(health), callers, None, Audit::default());
        let listener = Listener::tcp("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.address());
        let serving = tokio::spawn(front.serve(&config, listener, 10).unwrap());
        let ops = Listener::tcp("127.0.0.1:0").await.unwrap();
        let ops_url = format!("http://{}", ops.address());
        let _operators = front.operate(Some(ops), 10);
        let channel = Endpoint::from_shared(url).unwrap().connect().await.unwrap();
        let ops = Endpoint::from_shared(ops_url).unwrap();
        for channel in [channel.clone(), ops.connect().await.unwrap()] {
            let mut probe = HealthClient::new(channel);
            let mut said = async |service: &str| {
                let request = HealthCheckRequest {
                    service: service.to_owned(),
                };
                probe.check(request).await.unwrap().into_inner().status()
            };
            assert_eq!(said("").await, ServingStatus::NotServing);
            assert_eq!(said("liveness").await, ServingStatus::Serving);
        }
        let mut purchases = PurchaseServiceClient::new(channel.clone());
        let mut early = pin!(purchases.list_purchases(ListPurchasesRequest::default()));
        assert!((&mut early).now_or_never().is_none());
        let mut watch = HealthClient::new(channel);
        let watch = watch.watch(HealthCheckRequest::default()).await;
        let mut watch = watch.unwrap().into_inner();
        let mut said = async || watch.message().await.unwrap().unwrap().status();
        assert_eq!(said().await, ServingStatus::NotServing);
        assert!((&mut early).now_or_never().is_none(), "it still waits");
        let house = front.open(&config).await.unwrap();
        early.await.unwrap();
        assert_eq!(said().await, ServingStatus::Serving);
        let ended = front.drain(house, serving, Duration::from_secs(10));
        ended.await;
        assert!(database.exists());
    }
}
