//! A proxy that tests start in front of a house, with the file from `deploy/proxies` that users copy.

use std::{
    fmt,
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
};

use tempfile::TempDir;
use tillwatch::{Client, Config, SecretToken};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::{Child, Command},
};

use crate::{
    consumers::installed_by,
    house::{House, Stub, stub_of, token},
    process::{DEADLINE, until, within},
    tidy::sources::root,
};

/// The addresses in the files that users copy: the proxy's own, and the server's two.
const OWN: &str = "50050";
const GRPC: &str = "50051";
const OPS: &str = "9464";
/// Envoy's address for its operators.
const ADMIN: &str = "9901";
/// The longest silence of a stream in the files that users copy.
const IDLE: &str = "75s";

/// One of the proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Envoy,
    Nginx,
    Haproxy,
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Envoy => "Envoy",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
        })
    }
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Envoy, Self::Nginx, Self::Haproxy];

    fn file(self) -> &'static str {
        match self {
            Self::Envoy => "envoy.yaml",
            Self::Nginx => "nginx.conf",
            Self::Haproxy => "haproxy.cfg",
        }
    }

    /// The executable; `None` if it is missing and need not be there.
    fn executable(self) -> Option<PathBuf> {
        installed_by(
            "scripts/install-proxies",
            match self {
                Self::Envoy => "envoy/envoy/_bin/envoy",
                Self::Nginx => "debian/usr/sbin/nginx",
                Self::Haproxy => "debian/usr/sbin/haproxy",
            },
        )
    }

    /// The arguments to stay in the foreground with this configuration, as one process that dies with
    /// its test.
    fn arguments(self, folder: &Path, config: &Path) -> Vec<String> {
        let (folder, config) = (folder.display(), config.display());
        let text = match self {
            Self::Envoy => format!(
                "-c {config} --concurrency 1 --disable-hot-restart --use-dynamic-base-id -l warning"
            ),
            Self::Nginx => format!("-e stderr -p {folder} -c {config} -g"),
            Self::Haproxy => format!("-db -f {config}"),
        };
        let words = text.split(' ').map(str::to_owned);
        let last = format!("daemon off; master_process off; pid {folder}/nginx.pid;");
        words.chain((self == Self::Nginx).then_some(last)).collect()
    }
}

/// A running proxy. Dropping it kills it.
#[derive(Debug)]
pub struct Proxy {
    pub kind: Kind,
    child: Child,
    folder: TempDir,
    /// The address at which it waits for callers.
    pub address: String,
    /// The address at which Envoy and HAProxy tell what they think of the server.
    admin: String,
}

impl Proxy {
    /// A proxy in front of a house that lets a stream be silent for so long, as soon as calls pass.
    /// `None` if it is missing and need not be there.
    pub async fn start(kind: Kind, house: &House, idle: &str) -> Option<Self> {
        let executable = kind.executable()?;
        let proxy = within("a proxy lets a call pass", async {
            loop {
                let mut proxy = Self::spawn(kind, &executable, house, idle);
                // Somebody else may have taken its port meanwhile.
                while proxy.child.try_wait().unwrap().is_none() {
                    if proxy.client("shop").accounts().await.is_ok() {
                        return proxy;
                    }
                }
                assert!(proxy.log().contains("in use"), "{kind}: {}", proxy.log());
            }
        });
        Some(proxy.await)
    }

    fn spawn(kind: Kind, executable: &Path, house: &House, idle: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join(kind.file());
        let (own, admin) = (free_port(), free_port());
        let text = filled(kind, house, idle, (&own, &admin), folder.path());
        fs::write(&config, text).unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let child = Command::new(executable)
            .args(kind.arguments(folder.path(), &config))
            .env_clear()
            .env("LD_LIBRARY_PATH", libraries("debian"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            kind,
            child,
            folder,
            address: format!("127.0.0.1:{own}"),
            admin: format!("127.0.0.1:{admin}"),
        }
    }

    /// All that it has written.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// The client library for a caller, through the proxy.
    pub fn client(&self, caller: &str) -> Client {
        let mut config = Config::new(&self.address);
        config.token = Some(SecretToken::new(&token(caller)).unwrap());
        config.call_timeout = DEADLINE;
        Client::connect(config).unwrap()
    }

    /// The generated stub for a caller, through the proxy.
    pub async fn stub(&self, caller: &str) -> Stub {
        stub_of(&self.address, caller).await
    }

    /// Waits until the proxy's own health checks say that the server wants calls, or that it does not.
    /// nginx has no such checks.
    pub async fn sees(&self, wants_calls: bool) {
        let (path, yes, no) = match self.kind {
            Kind::Envoy => ("/clusters", "health_flags::healthy", "/failed_active_hc"),
            Kind::Haproxy => ("/;csv", ",UP,", ",DOWN,"),
            Kind::Nginx => return,
        };
        let what = format!("{} sees that calls are wanted: {wants_calls}", self.kind);
        let wanted = if wants_calls { yes } else { no };
        until(&what, async || {
            let page = get(&self.admin, path).await;
            let line = match self.kind {
                Kind::Haproxy => page
                    .lines()
                    .find(|line| line.starts_with("tillwatch,main,")),
                _ => page.lines().find(|line| line.contains("::health_flags::")),
            };
            line.is_some_and(|line| line.contains(wanted))
        })
        .await;
    }
}

/// The file that users copy, with the addresses of this test in place of the documented ones.
fn filled(kind: Kind, house: &House, idle: &str, ports: (&str, &str), folder: &Path) -> String {
    let path = root().join("deploy/proxies").join(kind.file());
    let mut text = fs::read_to_string(path).unwrap();
    let port = |address: &str| address.rsplit(':').next().unwrap().to_owned();
    let (grpc, ops) = (port(&house.server.grpc), port(&house.server.ops));
    let mut put = |documented: &str, value: &str| {
        assert!(text.contains(documented), "{kind} without {documented}");
        text = text.replace(documented, value);
    };
    put(IDLE, idle);
    put(OWN, ports.0);
    put(GRPC, &grpc);
    match kind {
        Kind::Envoy => put(ADMIN, ports.1),
        Kind::Haproxy => {
            put(OPS, &ops);
            let page = format!(
                "\nfrontend operators\n    bind 127.0.0.1:{}\n    stats enable\n    stats uri /\n",
                ports.1
            );
            text.push_str(&page);
        }
        Kind::Nginx => {
            // Its package's folders are not there, since it was unpacked only.
            let mut own = "http {\n    access_log off;".to_owned();
            for name in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
                own += &format!("\n    {name}_temp_path {}/{name};", folder.display());
            }
            put("http {", &own);
        }
    }
    text
}

/// A port that was free just now. It is the proxy that has to bind it.
pub fn free_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port().to_string()
}

/// The folders with the libraries of packages that were unpacked there.
pub fn libraries(unpacked: &str) -> String {
    let library = root().join(".cache").join(unpacked).join("usr/lib");
    let folders = fs::read_dir(library).into_iter().flatten();
    // A library that others share privately lies one folder deeper.
    let paths = folders.flat_map(|folder| {
        let folder = folder.unwrap().path();
        let private = folder.join("pulseaudio");
        [folder, private].map(|path| path.display().to_string())
    });
    paths.collect::<Vec<_>>().join(":")
}

/// A page over HTTP; empty if nobody answers.
async fn get(address: &str, path: &str) -> String {
    let mut page = String::new();
    if let Ok(mut stream) = TcpStream::connect(address).await {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let _ = stream.read_to_string(&mut page).await;
    }
    page
}
