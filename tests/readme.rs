//! The README's commands work as they stand there.

use std::fs;

use tillwatch_sandbox::{Options, PROVIDERS, Sandbox};
use tokio::process::Command;

use crate::{
    consumers::{installed, print},
    process::{Log, Server},
    tidy::sources::root,
};

/// The address in the README. Tests use another, since several run at once.
const SERVER: &str = "SERVER=127.0.0.1:50051";
/// The address of `tillwatch-sandbox serve` in `docs/sandbox.toml`.
const SANDBOX: &str = "127.0.0.1:4010";

/// The fenced shell blocks of a text that hold a word.
fn blocks<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
    let fenced = text.split("```sh\n").skip(1);
    let blocks = fenced.filter_map(|rest| rest.split_once("\n```"));
    blocks
        .map(|(block, _)| block)
        .filter(|block| block.contains(word))
        .collect()
}

#[tokio::test]
async fn the_readmes_grpcurl_commands_work_as_pasted() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let [block] = blocks(&readme, "grpcurl -plaintext")[..] else {
        panic!("the README has not one block of grpcurl commands");
    };
    assert!(block.contains(SERVER), "the README begins with {SERVER}");
    let Some(grpcurl) = installed("bin/grpcurl") else {
        return;
    };
    let sandbox = Options {
        speed: 10.0,
        ..Options::default()
    };
    let sandbox = Sandbox::start(sandbox).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = fs::read_to_string(root().join("docs/sandbox.toml")).unwrap();
    let config = config
        .replace(SANDBOX, &sandbox.address().to_string())
        .replace("127.0.0.1:50051", "127.0.0.1:0")
        .replace("127.0.0.1:9464", "127.0.0.1:0")
        .replace(
            "sandbox.db",
            &folder.path().join("sandbox.db").display().to_string(),
        );
    for provider in PROVIDERS {
        assert!(config.contains(&sandbox.base_url(provider)), "{provider}");
    }
    let path = folder.path().join("sandbox.toml");
    fs::write(&path, config).unwrap();
    let log = Log::default();
    let server = Server::start(&path, &log).await;
    let server = server.unwrap_or_else(|status| panic!("{status}: {}", log.text()));
    let script = block.replace(SERVER, &format!("SERVER={}", server.grpc));
    let tools = grpcurl.parent().unwrap().display().to_string();
    let run = || {
        let mut bash = Command::new("bash");
        let inherited = std::env::var("PATH").unwrap();
        bash.args(["-euo", "pipefail", "-c", &script])
            .env("PATH", format!("{tools}:{inherited}"))
            .current_dir(folder.path());
        bash
    };
    for _ in 0..2 {
        let said = print(&mut run()).await;
        assert!(said.success, "{}\n{}", said.out, said.err);
        let shown = ["PURCHASE_STATE_COMPLETED", "\"SERVING\"", "rpc WatchStatus"];
        for word in shown {
            assert!(said.out.contains(word), "{word}: {}", said.out);
        }
    }
    assert_eq!(sandbox.created("devdraft"), 1, "run twice, bought once");
}

#[test]
fn the_readmes_demo_and_test_commands_name_what_exists() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let commands = blocks(&readme, "").join("\n");
    for command in [
        "cargo run --release --bin tillwatch-sandbox -- demo",
        "bash .ci/run",
    ] {
        assert!(commands.contains(command), "{command}");
    }
    assert!(root().join(".ci/run").is_file());
}
