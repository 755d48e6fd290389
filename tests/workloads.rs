//! Callers that show tokens which their workload's issuer has signed, over the real server.

use std::{
    fs,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tillwatch_proto::v1::{ListPurchasesRequest, WatchPurchasesRequest};
use tonic::Code;

use crate::{
    house::{House, Settings},
    process::{until, within},
};

const ISSUER: &str = "https://kubernetes.default.svc";
const SUBJECT: &str = "system:serviceaccount:shop:buyer";

/// A cluster that signs tokens of service accounts with one key at a time.
struct Cluster {
    folder: TempDir,
    random: SystemRandom,
}

struct Signer {
    kid: &'static str,
    key: EcdsaKeyPair,
}

fn encoded(part: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(part)
}

/// Seconds since 1970.
fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap()
}

impl Cluster {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            random: SystemRandom::new(),
        }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("jwks.json")
    }

    fn signer(&self, kid: &'static str) -> Signer {
        let curve = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(curve, &self.random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(curve, pkcs8.as_ref(), &self.random).unwrap();
        Signer { kid, key }
    }

    fn publish(&self, signers: &[&Signer]) {
        let keys: Vec<Value> = signers
            .iter()
            .map(|signer| {
                let (x, y) = signer.key.public_key().as_ref()[1..].split_at(32);
                json!({
                    "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256",
                    "kid": signer.kid, "x": encoded(x), "y": encoded(y),
                })
            })
            .collect();
        fs::write(self.file(), json!({ "keys": keys }).to_string()).unwrap();
    }

    fn token(&self, signer: &Signer, subject: &str, expires: i64) -> String {
        let header = json!({"alg": "ES256", "kid": signer.kid}).to_string();
        let claims = json!({
            "iss": ISSUER, "sub": subject, "aud": ["tillwatch"], "nbf": now(), "exp": expires,
        });
        let message = format!("{}.{}", encoded(header), encoded(claims.to_string()));
        let signature = signer.key.sign(&self.random, message.as_bytes()).unwrap();
        format!("{message}.{}", encoded(signature))
    }

    async fn house(&self) -> House {
        House::start(Settings {
            more: format!(
                "\n[callers.workload]\naccounts = [\"*\"]\nscopes = [\"read\"]\n\
                 jwt = {{ issuer = \"{ISSUER}\", audience = \"tillwatch\", \
                 subject = \"{SUBJECT}\", jwks_file = \"{}\" }}\n",
                self.file().display()
            ),
            ..Settings::default()
        })
        .await
    }
}

async fn code(house: &House, token: &str) -> Code {
    let mut stub = house.stranger(Some(&format!("Bearer {token}"))).await;
    let listed = stub.list_purchases(ListPurchasesRequest::default());
    match within("an answer", listed).await {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    }
}

#[tokio::test]
async fn a_workload_is_known_by_its_token_until_that_expires_or_its_key_is_gone() {
    let cluster = Cluster::new();
    let (one, two, foreign) = (
        cluster.signer("one"),
        cluster.signer("two"),
        cluster.signer("two"),
    );
    cluster.publish(&[&one, &two]);
    let house = cluster.house().await;
    house.sandbox.pause();
    let later = now() + 3_600;
    let tokens = [&one, &two].map(|signer| cluster.token(signer, SUBJECT, later));
    let over = cluster.token(&one, SUBJECT, now() - 60);
    let other = cluster.token(&one, "system:serviceaccount:shop:other", later);
    let forged = cluster.token(&foreign, SUBJECT, later);
    for (token, expected) in [
        (&tokens[0], Code::Ok),
        (&tokens[1], Code::Ok),
        (&over, Code::Unauthenticated),
        (&other, Code::Unauthenticated),
        (&forged, Code::Unauthenticated),
    ] {
        assert_eq!(code(&house, token).await, expected, "{token}");
    }
    let metrics = house.metrics().await;
    for reason in ["TOKEN_EXPIRED", "UNKNOWN_SUBJECT", "BAD_SIGNATURE"] {
        let line = format!("tillwatch_refused_attempts_total{{reason=\"{reason}\"}} 1\n");
        assert!(metrics.contains(&line), "{line}{metrics}");
    }

    // A key is taken out of the file: what its tokens have opened ends, and nothing else does.
    let mut streams = Vec::new();
    for token in &tokens {
        let mut stub = house.stranger(Some(&format!("Bearer {token}"))).await;
        let feed = stub.watch_purchases(WatchPurchasesRequest::default());
        streams.push(within("a feed", feed).await.unwrap().into_inner());
    }
    let [mut of_one, mut of_two] = <[_; 2]>::try_from(streams).ok().unwrap();
    for stream in [&mut of_one, &mut of_two] {
        assert!(within("a beat", stream.message()).await.unwrap().is_some());
    }
    cluster.publish(&[&two]);
    let end = within("its end", of_one.message()).await.unwrap_err();
    assert_eq!(end.code(), Code::Unauthenticated);
    assert_eq!(code(&house, &tokens[0]).await, Code::Unauthenticated);
    assert_eq!(code(&house, &tokens[1]).await, Code::Ok);

    // A file that is broken changes nothing, and shows.
    fs::write(cluster.file(), "{").unwrap();
    let stale = async |value: u8| {
        let line = format!("tillwatch_settings_stale {value}\n");
        until(&line, async || house.metrics().await.contains(&line)).await;
    };
    stale(1).await;
    assert_eq!(code(&house, &tokens[1]).await, Code::Ok);
    cluster.publish(&[&two]);
    stale(0).await;
    let log = house.log.text();
    let told = "changed files of the settings cannot be used";
    assert_eq!(log.matches(told).count(), 1, "{log}");
    for token in [&tokens[0], &tokens[1], &over, &other, &forged] {
        let (_, signature) = token.rsplit_once('.').unwrap();
        assert!(!log.contains(signature), "{log}");
    }
    let idle = tokio::time::timeout(std::time::Duration::from_millis(1), of_two.message());
    assert!(!matches!(idle.await, Ok(Err(_) | Ok(None))), "it goes on");
}
