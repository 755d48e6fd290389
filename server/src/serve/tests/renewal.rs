//! Looks at the files of an account's TLS, in virtual time.

use std::{fs, path::Path};

use super::*;
use crate::{
    testing::{Authority, Log},
    upstream::tls::{Files, Tls},
};

const MINUTE: Duration = Duration::from_secs(60);

/// A house whose account `main` checks its provider against the authorities in a file.
async fn knowing(ca: &Path) -> House {
    let files = Files {
        ca: Some(ca.to_owned()),
        client: None,
    };
    let settings = Settings {
        tls: Tls::read(files).unwrap(),
        ..Settings::new("https://pay.example.com".parse().unwrap())
    };
    let upstream = Arc::new(HttpUpstream::new(settings).unwrap());
    let renewed = Renewed::new(AccountName::new("main"), Arc::clone(&upstream));
    let (journal, clock) = (testing::journal(), testing::clock());
    let policy = (provider::registered("carbon").unwrap().policy)();
    let kept = Arc::clone(&journal);
    let account = testing::account("main", "carbon", policy, upstream, &clock, kept).await;
    let parts = Parts {
        accounts: Accounts::new([account]),
        ..parts(journal)
    };
    let (readiness, health) = health::health().await;
    let opened = House::open_as(parts, vec![renewed], readiness, Arc::new(health));
    opened.await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_changed_file_is_taken_up_and_a_bad_one_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca");
    let write = |text: &str| fs::write(&ca, text).unwrap();
    write(&Authority::new().pem());
    let house = knowing(&ca).await;
    let (log, _logged) = Log::begin();
    tokio::time::sleep(MINUTE).await;
    assert_eq!(log.text(), "", "nothing has changed");
    let good = [Authority::new().pem(), Authority::new().pem()];
    let steps = [
        (good[0].as_str(), 1, 0),
        ("canary", 1, 1),
        (&good[1], 2, 1),
        ("canary", 2, 2),
        (&good[1], 2, 2),
    ];
    for (text, taken_up, refused) in steps {
        write(text);
        tokio::time::sleep(MINUTE).await;
        let told = log.text();
        let count = |words: &str| told.lines().filter(|line| line.contains(words)).count();
        assert_eq!(count("INFO"), taken_up, "{told}");
        assert_eq!(count("ERROR"), refused, "{told}");
        let stale = i32::from(text == "canary");
        let of = "account=\"main\",provider=\"carbon\"";
        let figure = format!("tillwatch_account_tls_files_stale{{{of}}} {stale}\n");
        let figures = house.figures.text(None, None, &reload::Reloads::default());
        assert!(figures.contains(&figure), "{figure}{figures}");
    }
    let told = log.text();
    assert!(told.contains("account=main"), "{told}");
    let problem = "the file of the authorities must hold at least one certificate in PEM";
    assert!(told.contains(problem), "{told}");
    assert!(!told.contains("canary"), "{told}");
}
