//! A house for a test: the real server in front of a sandbox. Its store and its configuration lie
//! in a temporary folder.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tillwatch::{Client, Config, Error, Refusal, SecretToken};
use tillwatch_proto::v1::{
    CreatePurchaseRequest, Purchase, PurchaseStatus, get_status_request::Key,
    purchase_service_client::PurchaseServiceClient,
};
use tillwatch_sandbox::{Options, PROVIDERS, Sandbox, Scenario};
use tillwatch_server::provider::registered;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

use crate::{
    process::{DEADLINE, ENVIRONMENT, Log, Server, within},
    store::Store,
    transport::{Socket, Transport},
};

/// The callers of every house, by name and scopes.
const CALLERS: [(&str, &str); 4] = [
    ("shop", r#"["create", "adopt", "read"]"#),
    ("rival", r#"["create", "adopt", "read"]"#),
    ("reader", r#"["read"]"#),
    ("desk", r#"["read", "operate"]"#),
];

/// The names of the secrets of a provider's account.
pub fn secrets(provider: &str) -> &'static [&'static str] {
    registered(provider).expect(provider).secrets
}

/// Another account at Devdraft, for [`Settings::more`]. Nobody answers there.
pub const SECOND_DEVDRAFT: &str = r#"
[accounts.devdraft-second]
provider = "devdraft"
base_url = "http://127.0.0.1:9"
allow_insecure = true
allow_private_networks = true
client_key = "a"
client_secret = "b"
"#;

/// The settings in which houses differ.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The sandbox's options.
    pub sandbox: Options,
    /// The server's store.
    pub store: Store,
    /// The address that the server takes for the providers' instead of the sandbox's.
    pub front: Option<SocketAddr>,
    /// The transport of the service's port.
    pub transport: Transport,
    /// More lines for `[listen]`.
    pub listen: String,
    /// Keys and values for each account's `[polling]`.
    pub polling: Vec<(&'static str, &'static str)>,
    /// The beginning of every secret in the configuration.
    pub secret_prefix: &'static str,
    /// More configuration at the end.
    pub more: String,
    /// The server's environment: lines of `NAME=VALUE`.
    pub environment: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            sandbox: Options {
                devdraft_calls_per_window: 0,
                speed: 10.0,
                ..Options::default()
            },
            store: Store::Sqlite,
            front: None,
            transport: Transport::Plain,
            listen: "drain = \"10s\"".to_owned(),
            polling: vec![
                ("schedule", r#"[{ every = "100ms" }]"#),
                ("after_terminal", r#"[{ every = "100ms" }]"#),
                ("requests_per_minute", "0"),
                ("creates_per_minute", "0"),
                ("timeout", r#""2s""#),
                ("sweep", "false"),
            ],
            secret_prefix: "house",
            more: String::new(),
            environment: String::new(),
        }
    }
}

impl Settings {
    /// Sets another value for a polling key.
    pub fn polled(mut self, key: &'static str, value: &'static str) -> Self {
        self.polling.retain(|(known, _)| *known != key);
        self.polling.push((key, value));
        self
    }

    /// Lets the service read the lists of the providers that have one.
    pub fn swept(mut self) -> Self {
        self.polling.retain(|(known, _)| *known != "sweep");
        self
    }

    fn text(&self, folder: &Path, sandbox: SocketAddr, grpc: &str, ops: &str) -> String {
        let mut text = format!(
            "[listen]\ngrpc = \"{grpc}\"\nops = \"{ops}\"\n{}\n{}\n[store]\n{}",
            self.listen,
            self.transport.lines(),
            self.store.lines(folder)
        );
        for (name, scopes) in CALLERS {
            let hash = hex::encode(Sha256::digest(token(name)));
            let caller = format!(
                "\n[callers.{name}]\ntoken_sha256 = [\"{hash}\"]\naccounts = [\"*\"]\nscopes = {scopes}\n"
            );
            text.push_str(&caller);
        }
        let providers = self.front.unwrap_or(sandbox);
        for provider in PROVIDERS {
            let account = account(provider);
            let _ = writeln!(
                text,
                "\n[accounts.{account}]\nprovider = \"{provider}\"\n\
                 base_url = \"http://{providers}/{provider}\"\n\
                 allow_insecure = true\nallow_private_networks = true"
            );
            for secret in secrets(provider) {
                // The sandbox tells an organisation's key from a widget's by a part of it.
                let part = secret.split('_').next().unwrap_or_default();
                let _ = writeln!(
                    text,
                    "{secret} = \"{}-{part}-{provider}\"",
                    self.secret_prefix
                );
            }
            let _ = writeln!(text, "[accounts.{account}.polling]");
            for (key, value) in &self.polling {
                let _ = writeln!(text, "{key} = {value}");
            }
        }
        text.push_str(&self.more);
        text
    }

    /// Writes a configuration, and the environment beside it.
    fn write(&self, config: &Path, text: &str) {
        fs::write(config, text).unwrap();
        if !self.environment.is_empty() {
            fs::write(config.with_extension(ENVIRONMENT), &self.environment).unwrap();
        }
    }
}

/// The refusal of a failed call, as the client library reads it.
pub fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>) -> Refusal {
    let error = Error::from(answer.unwrap_err());
    error.refusal().expect("an answer of the service").clone()
}

/// The token of a caller.
pub fn token(caller: &str) -> String {
    format!("token-of-{caller}")
}

/// The account of every house at a provider.
pub fn account(provider: &str) -> String {
    format!("{provider}-main")
}

/// A Devdraft order in proto JSON.
pub fn devdraft_json(scenario: Scenario) -> Value {
    json!({ "stablecoin": {
        "sourceCurrency": "usdc",
        "sourceNetwork": "ethereum",
        "destinationCurrency": "eurc",
        "destinationNetwork": "base",
        "destinationAddress": "0x0000000000000000000000000000000000000001",
        "amount": format!("100.{}", scenario.cents()),
    } })
}

/// The generated stub, with a caller's token on every call.
pub type Stub = PurchaseServiceClient<InterceptedService<Channel, Bearer>>;

/// Adds a token to every call.
#[derive(Clone, Debug)]
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

/// The generated stub for a caller, at an address.
pub async fn stub_of(address: &str, caller: &str) -> Stub {
    let token = format!("Bearer {}", token(caller)).parse().unwrap();
    let channel = Transport::Plain.channel(address).await;
    let channel = InterceptedService::new(channel, Bearer(Some(token)));
    PurchaseServiceClient::new(channel).max_decoding_message_size(64 << 20)
}

/// The client library for a caller, at an address.
pub fn client_of(address: &str, caller: &str) -> Client {
    let mut config = Config::new(address);
    config.token = Some(SecretToken::new(&token(caller)).unwrap());
    config.call_timeout = DEADLINE;
    Client::connect(config).unwrap()
}

/// A server and its sandbox.
#[derive(Debug)]
pub struct House {
    /// The simulated providers.
    pub sandbox: Sandbox,
    /// The process that serves now.
    pub server: Server,
    /// The log of all processes of this house.
    pub log: Log,
    pub settings: Settings,
    config: PathBuf,
    folder: TempDir,
}

/// A process beside a house's own, on the same store and in front of the same sandbox.
#[derive(Debug)]
pub struct Replica {
    pub server: Server,
    pub log: Log,
    /// Its way to the store.
    pub store: Store,
    config: PathBuf,
}

impl House {
    /// The usual house, whose sandbox stands still until it is resumed.
    pub async fn still() -> Self {
        let house = Self::start(Settings::default()).await;
        house.sandbox.pause();
        house
    }

    /// The same over this store.
    pub async fn still_on(store: Store) -> Self {
        let settings = Settings {
            store,
            ..Settings::default()
        };
        let house = Self::start(settings).await;
        house.sandbox.pause();
        house
    }

    /// The same over this transport.
    pub async fn still_over(transport: Transport) -> Self {
        let settings = Settings {
            transport,
            ..Settings::default()
        };
        let house = Self::start(settings).await;
        house.sandbox.pause();
        house
    }

    /// A house with these settings.
    pub async fn start(settings: Settings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sandbox = Sandbox::start(settings.sandbox.clone()).await.unwrap();
        let log = Log::default();
        let text = settings.text(
            folder.path(),
            sandbox.address(),
            "127.0.0.1:0",
            "127.0.0.1:0",
        );
        let config = folder.path().join("tillwatch.toml");
        settings.write(&config, &text);
        let server = match Server::start(&config, &log).await {
            Ok(server) => server,
            Err(status) => panic!("the server ended with {status}:\n{}", log.text()),
        };
        Self {
            sandbox,
            server,
            log,
            settings,
            config,
            folder,
        }
    }

    /// The folder with the configuration and the store.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration's file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Removes the store while no process uses it.
    pub fn forget(&self) {
        for entry in fs::read_dir(self.folder()).unwrap() {
            let path = entry.unwrap().path();
            if path != self.config() {
                fs::remove_file(path).unwrap();
            }
        }
    }

    /// Starts a process again, at the same addresses and over the same store.
    pub async fn restart(&mut self) {
        let text = self.text(&self.settings.store, &self.server.grpc, &self.server.ops);
        fs::write(&self.config, text).unwrap();
        self.server = again(&self.config, &self.log).await;
    }

    /// Starts another process on the same store, which it reaches in its own way.
    pub async fn another(&self, store: Store) -> Replica {
        let name = format!("replica-{}.toml", hex::encode(rand::random::<[u8; 4]>()));
        let config = self.folder().join(name);
        let text = self.text(&store, "127.0.0.1:0", "127.0.0.1:0");
        self.settings.write(&config, &text);
        let log = Log::default();
        Replica {
            server: again(&config, &log).await,
            log,
            store,
            config,
        }
    }

    /// Starts another process again, at the same addresses and over the same store.
    pub async fn restart_another(&self, replica: &mut Replica) {
        let text = self.text(&replica.store, &replica.server.grpc, &replica.server.ops);
        fs::write(&replica.config, text).unwrap();
        replica.server = again(&replica.config, &replica.log).await;
    }

    /// Lets another process be the house's own, and the house's own be the other.
    pub fn change_places(&mut self, other: &mut Replica) {
        std::mem::swap(&mut self.server, &mut other.server);
        std::mem::swap(&mut self.log, &mut other.log);
        std::mem::swap(&mut self.settings.store, &mut other.store);
        std::mem::swap(&mut self.config, &mut other.config);
    }

    /// The configuration of a process at these addresses.
    fn text(&self, store: &Store, grpc: &str, ops: &str) -> String {
        let settings = Settings {
            store: store.clone(),
            ..self.settings.clone()
        };
        settings.text(self.folder(), self.sandbox.address(), grpc, ops)
    }

    /// The text of the server's `/metrics`.
    pub async fn metrics(&self) -> String {
        let mut scrape = TcpStream::connect(&self.server.ops).await.unwrap();
        let request = "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n";
        scrape.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        within("metrics", scrape.read_to_string(&mut text))
            .await
            .unwrap();
        text
    }

    /// A connection to the server.
    pub async fn socket(&self) -> Box<dyn Socket> {
        self.settings.transport.socket(&self.server.grpc).await
    }

    /// A channel to the server.
    pub async fn channel(&self) -> Channel {
        self.settings.transport.channel(&self.server.grpc).await
    }

    /// The generated stub for a caller.
    pub async fn stub(&self, caller: &str) -> Stub {
        let token = format!("Bearer {}", token(caller));
        self.stranger(Some(&token)).await
    }

    /// The generated stub with this `authorization`, or without any.
    pub async fn stranger(&self, authorization: Option<&str>) -> Stub {
        let bearer = Bearer(authorization.map(|text| text.parse().unwrap()));
        let channel = InterceptedService::new(self.channel().await, bearer);
        PurchaseServiceClient::new(channel).max_decoding_message_size(64 << 20)
    }

    /// Creates a purchase for a caller. The call has to succeed.
    pub async fn create(&self, caller: &str, request: CreatePurchaseRequest) -> Purchase {
        let mut stub = self.stub(caller).await;
        let created = within("an answer to a create", stub.create_purchase(request)).await;
        created.unwrap().into_inner().purchase.unwrap()
    }

    /// Creates a purchase for a caller. The call has to fail.
    pub async fn refused(&self, caller: &str, request: CreatePurchaseRequest) -> Refusal {
        let mut stub = self.stub(caller).await;
        let refused = within("an answer to a create", stub.create_purchase(request)).await;
        refusal(refused)
    }

    /// The newest status of a purchase, as soon as it is as wanted.
    pub async fn settled(
        &self,
        what: &str,
        id: &str,
        wanted: impl Fn(&PurchaseStatus) -> bool,
    ) -> PurchaseStatus {
        let client = self.client("desk");
        within(what, async {
            let mut after = 0;
            loop {
                let key = Key::PurchaseId(id.to_owned());
                let answer = client.get_after(key, after, Duration::from_secs(10)).await;
                let status = answer.unwrap().purchase.unwrap().status.unwrap();
                if wanted(&status) {
                    return status;
                }
                after = status.revision;
            }
        })
        .await
    }

    /// The client library for a caller.
    pub fn client(&self, caller: &str) -> Client {
        client_of(&self.server.grpc, caller)
    }
}

/// A process by this configuration, as soon as it serves.
async fn again(config: &Path, log: &Log) -> Server {
    within("a server starts", async {
        loop {
            // For a moment the port may belong to somebody's connection.
            match Server::start(config, log).await {
                Ok(server) => return server,
                Err(_) if log.text().ends_with("(os error 98)\n") => {}
                Err(status) => panic!("ended with {status}:\n{}", log.text()),
            }
        }
    })
    .await
}
