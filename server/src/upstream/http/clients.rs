//! The two clients of an account, made of its settings.

use std::sync::Arc;

use reqwest::{Certificate, Client, ClientBuilder, Identity, Proxy, Url, redirect, retry};

use super::{Filter, HttpError, LookUp, Settings, USER_AGENT, is_allowed, reuse};
use crate::upstream::Connection;

/// An account's clients, one for each use of connections.
pub(super) struct Clients {
    pooled: Client,
    fresh: Client,
}

impl Clients {
    pub(super) fn new(settings: &Settings, look_up: &LookUp) -> Result<Self, HttpError> {
        let proxy = proxy(settings)?;
        // An error says that a provider is installed already, which is as good: ring is the only one
        // in this executable.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let build = |limit: fn(ClientBuilder) -> ClientBuilder| {
            let builder = secured(builder(settings, look_up), settings)?;
            let builder = match &proxy {
                Some(proxy) => builder.proxy(proxy.clone()),
                None => builder,
            };
            limit(builder).build().map_err(HttpError::client)
        };
        Ok(Self {
            pooled: build(|builder| builder)?,
            // A connection that is never given back meets no second request.
            fresh: build(|builder| builder.pool_max_idle_per_host(0))?,
        })
    }

    /// The client of a request.
    pub(super) fn of(&self, connection: Connection) -> Client {
        match connection {
            Connection::Pooled => self.pooled.clone(),
            Connection::Fresh => self.fresh.clone(),
        }
    }
}

fn proxy(settings: &Settings) -> Result<Option<Proxy>, HttpError> {
    let Some(proxy) = &settings.proxy else {
        return Ok(None);
    };
    let url: Url = proxy.expose().parse().map_err(|_| HttpError::Proxy)?;
    if url.scheme() != "http" || is_allowed(&url, settings) != Some(true) {
        return Err(HttpError::Proxy);
    }
    // The error would show the URL.
    Proxy::all(url).map(Some).map_err(|_| HttpError::Proxy)
}

fn builder(settings: &Settings, look_up: &LookUp) -> ClientBuilder {
    Client::builder()
        .user_agent(USER_AGENT)
        .no_proxy()
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .connector_layer(reuse::Noting)
        .referer(false)
        .tcp_nodelay(true)
        .connect_timeout(settings.connect_timeout)
        .pool_idle_timeout(settings.idle_timeout)
        // With HTTP/2 one connection that closes fails many requests at once.
        .http1_only()
        .dns_resolver(Filter {
            allow_private: settings.allow_private_networks,
            look_up: Arc::clone(look_up),
        })
}

/// The builder of a client that speaks TLS if the origin does.
fn secured(builder: ClientBuilder, settings: &Settings) -> Result<ClientBuilder, HttpError> {
    if settings.base_url.scheme() != "https" {
        // Without TLS there is nothing to verify, and a machine may have no root certificates at all.
        return Ok(builder.tls_certs_only([]));
    }
    let (mut builder, tls) = (builder.https_only(true), &settings.tls);
    if let Some(roots) = tls.roots() {
        let roots: Result<Vec<_>, _> = (roots.iter())
            .map(|root| Certificate::from_der(root))
            .collect();
        builder = builder.tls_certs_only(roots.map_err(HttpError::client)?);
    }
    if let Some(client) = tls.client() {
        let identity = Identity::from_pem(client.expose().as_bytes());
        builder = builder.identity(identity.map_err(HttpError::client)?);
    }
    Ok(builder)
}
