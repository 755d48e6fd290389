//! The log's reader may hang: nothing of the server waits for it.

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex},
};

use tillwatch_proto::v1::{ListAccountsRequest, purchase_service_client::PurchaseServiceClient};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};
use tonic::transport::Endpoint;

use crate::process::{serve, until, within};

/// The text of the metrics; `None` before the server serves.
async fn metrics(ops: &Path) -> Option<String> {
    let mut scrape = UnixStream::connect(ops).await.ok()?;
    let request = "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n";
    scrape.write_all(request.as_bytes()).await.ok()?;
    let mut text = String::new();
    let read = within("metrics", scrape.read_to_string(&mut text)).await;
    read.ok().map(|_| text)
}

#[tokio::test]
async fn a_reader_of_the_log_that_hangs_holds_nothing_up_and_hears_of_the_gap() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display();
    let (config, ops) = (folder.path().join("c.toml"), folder.path().join("ops"));
    let text = format!(
        "[listen]\ngrpc = \"unix:{path}/grpc\"\nops = \"unix:{path}/ops\"\n\
         [store]\nurl = \"sqlite:{path}/journal.db\"\n\
         [callers.local]\nanonymous = true\naccounts = [\"*\"]\nscopes = [\"read\"]\n\
         [telemetry]\nlog = \"trace\"\n"
    );
    fs::write(&config, text).unwrap();
    let (mut reader, writer) = io::pipe().unwrap();
    let mut server = serve(&config, &[])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(writer)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let endpoint = Endpoint::from_shared(format!("unix:{path}/grpc")).unwrap();
    let mut client = PurchaseServiceClient::new(endpoint.connect_lazy());
    until("lines are left out", async || {
        // Each call is worth many lines. The first ones come before the server serves.
        for _ in 0..20 {
            let _ = client.list_accounts(ListAccountsRequest::default()).await;
        }
        let text = metrics(&ops).await.unwrap_or_default();
        let left_out = text.lines().find_map(|line| {
            let (_, times) = line.split_once("tillwatch_log_lines_total{outcome=\"left_out\"} ")?;
            times.parse::<u64>().ok()
        });
        left_out.is_some_and(|times| times > 0)
    })
    .await;

    let heard = Arc::<Mutex<String>>::default();
    let hearing = Arc::clone(&heard);
    let reading = tokio::task::spawn_blocking(move || {
        let mut bytes = [0; 4_096];
        while let Ok(count @ 1..) = reader.read(&mut bytes) {
            let text = String::from_utf8_lossy(&bytes[..count]);
            hearing.lock().unwrap().push_str(&text);
        }
    });
    let has_heard = |words: &str| heard.lock().unwrap().contains(words);
    // By then the queue has room again, so that the last lines are not left out as well.
    let gap = "lines of the log are left out lines=";
    until("the gap is told", async || has_heard(gap)).await;
    let id = server.id().unwrap();
    let kill = tokio::process::Command::new("kill")
        .arg(id.to_string())
        .status();
    assert!(kill.await.unwrap().success());
    let exit = within("the server drains", server.wait()).await.unwrap();
    assert!(exit.success(), "{exit}");
    within("the log ends", reading).await.unwrap();
    assert!(has_heard("SIGTERM: draining") && has_heard("drained"));
}
