//! A real headless Chromium, whose page watches a purchase with generated stubs.
//!
//! `scripts/install-browser` puts it into `.cache/`. If it or npm is missing, the test says so on
//! standard error, and fails if the environment says `CI=true`.

use std::{path::Path, process::Stdio};

use serde_json::{Value, json};
use tillwatch_proto::v1::PurchaseState;
use tillwatch_sandbox::Scenario;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use crate::{
    consumers::{installed, installed_by, print},
    house::{House, Settings, token},
    orders::request,
    process::within,
    proxies::{free_port, libraries},
    tidy::sources::root,
};

const SCRIPT: &str = "scripts/install-browser";

/// A browser with its page, and the lines that it tells.
struct Browser {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Browser {
    /// Lets the page of a listed origin watch a purchase.
    fn start(chromium: &Path, bundle: &Path, server: &str, listed: &str, purchase: &str) -> Self {
        let settings = json!({
            "browser": chromium,
            "listed": listed.parse::<u16>().unwrap(),
            "server": server,
            "token": token("shop"),
            "purchase": purchase,
        });
        let mut child = Command::new("node")
            .arg(root().join("tests/consumers/web/drive.cjs"))
            .arg(bundle)
            .arg(settings.to_string())
            .env("NODE_PATH", root().join(".cache/web/node_modules"))
            .env("LD_LIBRARY_PATH", libraries("chromium"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            _child: child,
            lines,
        }
    }

    async fn next(&mut self) -> Value {
        let line = within("a word of the page", self.lines.next_line()).await;
        let line = line.unwrap().expect("the driver goes on");
        serde_json::from_str(&line).unwrap()
    }
}

/// Generates the page's stubs, and makes one script of all.
async fn bundle(protoc_python: &Path, folder: &Path) -> std::path::PathBuf {
    let modules = root().join(".cache/web/node_modules");
    let stubs = folder.join("gen");
    std::fs::create_dir_all(&stubs).unwrap();
    let proto = root().join("proto");
    let mut generate = Command::new(protoc_python);
    generate
        .args(["-m", "grpc_tools.protoc", "-I"])
        .arg(&proto)
        .arg(format!(
            "--plugin=protoc-gen-es={}",
            modules.join(".bin/protoc-gen-es").display()
        ))
        .arg(format!("--es_out={}", stubs.display()))
        .arg("--es_opt=target=js")
        .args(
            ["order", "purchase", "purchase_service"]
                .map(|name| proto.join(format!("tillwatch/v1/{name}.proto"))),
        );
    let generated = print(&mut generate).await;
    assert!(generated.success, "{}", generated.err);
    let page = folder.join("page.js");
    std::fs::copy(root().join("tests/consumers/web/page.js"), &page).unwrap();
    let out = folder.join("bundle.js");
    let mut join = Command::new(modules.join(".bin/esbuild"));
    join.arg(&page)
        .args(["--bundle", "--format=iife", "--log-level=warning"])
        .arg(format!("--outfile={}", out.display()))
        .env("NODE_PATH", &modules);
    let joined = print(&mut join).await;
    assert!(joined.success, "{}", joined.err);
    out
}

#[tokio::test]
async fn a_browser_s_page_sees_each_revision_once_over_a_restart_and_a_foreign_page_sees_none() {
    let tools = [
        installed_by(SCRIPT, "chromium/usr/lib/chromium/chromium"),
        installed_by(SCRIPT, "web/node_modules/.bin/esbuild"),
        installed("python/bin/python"),
    ];
    let [Some(chromium), Some(_), Some(python)] = tools else {
        return;
    };
    let listed = free_port();
    let mut house = House::start(Settings {
        listen: format!("drain = \"10s\"\nweb_origins = [\"http://127.0.0.1:{listed}\"]"),
        ..Settings::default()
    })
    .await;
    house.sandbox.pause();
    let order = request("browser", "carbon", Scenario::Paid);
    let id = house.create("shop", order).await.id;
    let folder = tempfile::tempdir().unwrap();
    let bundle = bundle(&python, folder.path()).await;
    let server = format!("http://{}", house.server.grpc);
    let mut browser = Browser::start(&chromium, &bundle, &server, &listed, &id);

    // The browser itself keeps the answer from a page that may not read it.
    assert_eq!(browser.next().await, json!({ "foreign": "Unknown" }));
    assert_eq!(browser.next().await, json!({ "own": "Ok" }));
    assert_eq!(browser.next().await, json!({ "revision": 1 }));
    house.server.signal("TERM").await;
    assert!(house.server.exit().await.success(), "{}", house.log.text());
    let mut told = vec![1];
    let mut losses = 0;
    while losses == 0 {
        let word = browser.next().await;
        told.extend(word["revision"].as_u64());
        losses += usize::from(word["lost"].is_string());
    }
    house.restart().await;
    house.sandbox.resume();
    let state = loop {
        let word = browser.next().await;
        told.extend(word["revision"].as_u64());
        if let Some(state) = word["state"].as_i64() {
            break state;
        }
    };
    let last = told.last().copied().unwrap();
    assert!(last > 2, "{told:?}");
    assert_eq!(told, (1..=last).collect::<Vec<_>>());
    assert_eq!(state, i64::from(i32::from(PurchaseState::Completed)));
}
