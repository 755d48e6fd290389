//! TLS to a provider: the real server in front of a sandbox behind TLS, whose certificate changes.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, OnceLock},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
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
};

const ACCOUNT: &str = "devdraft-secure";

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for this name or address, and its key, in PEM.
    fn certificate(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// The settings of a provider whose certificate and whose clients' certificates are from here.
    fn provider(&self) -> Arc<ServerConfig> {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(self.pem().as_bytes()).unwrap();
        roots.add(root).unwrap();
        let provider = Arc::new(ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let (certificate, key) = self.certificate("127.0.0.1");
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let settings = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(vec![certificate], key)
            .unwrap();
        Arc::new(settings)
    }

    /// Writes the files of an account that knows this authority and has a certificate of it.
    fn write(&self, folder: &Path) {
        let (certificate, key) = self.certificate("client.test");
        fs::write(folder.join("ca"), self.pem()).unwrap();
        fs::write(folder.join("both"), certificate + &key).unwrap();
    }
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
            settings: Arc::new(Mutex::new(authority.provider())),
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
        *self.settings.lock().unwrap() = authority.provider();
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
    let (first, second) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    first.write(folder.path());
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
    fs::write(folder.path().join("ca"), "canary").unwrap();
    let logged = |words: &str| house.log.text().contains(words);
    until("a bad file is told", async || {
        logged("the file of the authorities must hold")
    })
    .await;
    second.write(folder.path());
    until("good files are taken up", async || {
        logged("new files of an account's TLS are used")
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
    assert!(!text.contains("PRIVATE KEY") && !text.contains("canary"));
}
