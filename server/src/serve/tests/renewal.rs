//! Looks at the files of an account's TLS, in virtual time.

use std::fs;

use tokio::task::JoinSet;

use super::*;
use crate::{
    testing::{Authority, Log},
    upstream::tls::{Files, Tls},
};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a_changed_file_is_taken_up_and_a_bad_one_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca");
    let write = |text: &str| fs::write(&ca, text).unwrap();
    write(&Authority::new().pem());
    let files = Files {
        ca: Some(ca.clone()),
        client: None,
    };
    let settings = Settings {
        tls: Tls::read(files).unwrap(),
        ..Settings::new("https://pay.example.com".parse().unwrap())
    };
    let renewed = Renewed {
        account: AccountName::new("main"),
        upstream: Arc::new(HttpUpstream::new(settings).unwrap()),
    };
    let (log, _logged) = Log::begin();
    let mut work = JoinSet::new();
    work.spawn(renewed.run());
    let good = [Authority::new().pem(), Authority::new().pem()];
    let steps = [
        (good[0].as_str(), 1, 0),
        ("canary", 1, 1),
        (&good[1], 2, 1),
        ("canary", 2, 2),
        (&good[1], 2, 2),
    ];
    tokio::time::sleep(MINUTE).await;
    assert_eq!(log.text(), "", "nothing has changed");
    for (text, taken_up, refused) in steps {
        write(text);
        tokio::time::sleep(MINUTE).await;
        let told = log.text();
        let count = |words: &str| told.lines().filter(|line| line.contains(words)).count();
        assert_eq!(count("INFO"), taken_up, "{told}");
        assert_eq!(count("ERROR"), refused, "{told}");
    }
    let told = log.text();
    assert!(told.contains("account=main"), "{told}");
    assert!(
        told.contains("the file of the authorities must hold at least"),
        "{told}"
    );
    assert!(!told.contains("canary"), "{told}");
}
