//! TLS to a provider: the real server in front of a sandbox behind TLS, whose certificate changes.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, OnceLock},
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tillwatch_proto::v1::{AccountHealth, ListAccountsRequest};
use tillwatch_sandbox::Scenario;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    house::{House, Settings},
    orders::request,
    process::until,
    reload::DONE,
    tls::{Authority, authority, certificate},
};

const ACCOUNT: &str = "devdraft-secure";

/// The settings of a provider whose certificate and whose clients' certificates have one authority.
fn provider(authority: &Authority) -> Arc<ServerConfig> {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap();
    roots.add(root).unwrap();
    let provider = Arc::new(ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let (own, key) = certificate(authority, &["127.0.0.1"], None);
    let own = CertificateDer::from_pem_slice(own.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let settings = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![own], key)
        .unwrap();
    Arc::new(settings)
}

/// Writes the files of an account that knows this authority and has a certificate of it.
fn write(authority: &Authority, folder: &Path) {
    let (own, key) = certificate(authority, &["client.test"], None);
    fs::write(folder.join("ca"), authority.pem()).unwrap();
    fs::write(folder.join("both"), own + &key).unwrap();
}

/// The sandbox behind TLS.
struct Gate {
    address: SocketAddr,
    sandbox: Arc<OnceLock<SocketAddr>>,
    settings: Arc<Mutex<Arc<ServerConfig>>>,
    open: Arc<Mutex<JoinSet<()>>>,
    _accepting: JoinSet<()>,
}

impl Gate {
    async fn start(authority: &Authority) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut gate = Self {
            address: listener.local_addr().unwrap(),
            sandbox: Arc::default(),
            settings: Arc::new(Mutex::new(provider(authority))),
            open: Arc::default(),
            _accepting: JoinSet::new(),
        };
        let (sandbox, settings) = (Arc::clone(&gate.sandbox), Arc::clone(&gate.settings));
        let open = Arc::clone(&gate.open);
        gate._accepting.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = TlsAcceptor::from(Arc::clone(&settings.lock().unwrap()));
                let sandbox = *sandbox.get().unwrap();
                open.lock().unwrap().spawn(async move {
                    if let Ok(mut stream) = acceptor.accept(stream).await {
                        let mut behind = TcpStream::connect(sandbox).await.unwrap();
                        let _ = tokio::io::copy_bidirectional(&mut stream, &mut behind).await;
                    }
                });
            }
        });
        gate
    }

    /// Moves to another authority, and closes the connections of the old one.
    fn renew(&self, authority: &Authority) {
        *self.settings.lock().unwrap() = provider(authority);
        self.open.lock().unwrap().abort_all();
    }
}

/// The account at the sandbox behind the gate.
fn account(gate: &Gate, folder: &Path) -> String {
    let (address, folder) = (gate.address, folder.display());
    format!(
        r#"
[accounts.{ACCOUNT}]
provider = "devdraft"
base_url = "https://{address}/devdraft"
allow_private_networks = true
client_key = "house-client-devdraft"
client_secret = "house-client-devdraft"
ca_file = "{folder}/ca"
client_cert_file = "{folder}/both"
client_cert_key_file = "{folder}/both"
[accounts.{ACCOUNT}.polling]
schedule = [{{ every = "100ms" }}]
requests_per_minute = 0
timeout = "2s"
"#
    )
}

async fn health(house: &House) -> AccountHealth {
    let mut desk = house.stub("desk").await;
    let answer = desk.list_accounts(ListAccountsRequest {}).await.unwrap();
    let accounts = answer.into_inner().accounts;
    let account = accounts.iter().find(|account| account.name == ACCOUNT);
    account.unwrap().health()
}

#[tokio::test]
async fn a_purchase_goes_on_after_its_provider_and_the_accounts_files_have_moved_to_another_authority()
 {
    let (first, second) = (authority(), authority());
    let folder = tempfile::tempdir().unwrap();
    write(&first, folder.path());
    let gate = Gate::start(&first).await;
    let settings = Settings {
        more: account(&gate, folder.path()),
        ..Settings::default()
    };
    let house = House::start(settings).await;
    gate.sandbox.set(house.sandbox.address()).unwrap();
    house.sandbox.pause();
    let mut order = request("order", "devdraft", Scenario::Paid);
    order.account = ACCOUNT.to_owned();
    let purchase = house.create("shop", order).await;
    gate.renew(&second);
    until("the provider is not reached any more", async || {
        health(&house).await == AccountHealth::Degraded
    })
    .await;
    write(&second, folder.path());
    until("good files are taken up", async || {
        let text = house.log.text();
        text.contains(DONE)
    })
    .await;
    house.sandbox.resume();
    let before = purchase.status.unwrap().state();
    house
        .settled("the purchase goes on", &purchase.id, |status| {
            status.state() != before
        })
        .await;
    until("the account is well", async || {
        health(&house).await == AccountHealth::Ok
    })
    .await;
    let text = house.log.text();
    assert!(!text.contains("PRIVATE KEY"), "{text}");
}
