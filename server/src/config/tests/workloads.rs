//! Callers by their workloads' tokens.

use super::*;
use crate::jwt::tests::Issuer;

/// A caller with these lines in its section of tokens.
fn caller(name: &str, lines: &str) -> String {
    format!(
        "[callers.{name}]\naccounts = [\"*\"]\nscopes = [\"read\"]\n[callers.{name}.jwt]\n{lines}\n"
    )
}

#[test]
fn the_keys_of_workloads_tokens_are_read_with_the_settings() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let good = serde_json::json!({ "keys": [Issuer::new("one").jwk()] }).to_string();
    let good = file("good", &good);
    let broken = file("broken", "{\"keys\":[{\"kty\":\"oct\",\"k\":\"canary\"}]}");
    let terms = "issuer = \"canary-i\"\naudience = \"canary-a\"\nsubject = \"canary-s\"\n";
    let whole = format!("{terms}jwks_file = \"{good}\"");

    let config = load(&caller("shop", &whole), &[]).unwrap();
    let jwt = config.callers[0].jwt.as_ref().unwrap();
    assert_eq!(jwt.terms.subject, "canary-s");
    assert_eq!(jwt.jwks_file.display().to_string(), good);
    assert!(config.callers[0].token_sha256.is_empty());

    let nowhere = folder.path().join("nowhere").display().to_string();
    let table = [
        (
            caller("shop", terms),
            "callers.shop.jwt.jwks_file: is required",
        ),
        (
            caller("shop", &whole.replace("issuer = \"canary-i\"\n", "")),
            "callers.shop.jwt.issuer: is required",
        ),
        (
            caller("shop", &whole.replace("canary-s", "")),
            "callers.shop.jwt.subject: is required",
        ),
        (
            caller("shop", &format!("{whole}\nalgorithm = \"none\"")),
            "callers.shop.jwt.algorithm: unknown key",
        ),
        (
            caller("shop", &format!("{terms}jwks_file = \"{broken}\"")),
            "must have a key of RSA, EC (P-256, P-384) or Ed25519 for signatures",
        ),
        (
            caller("shop", &format!("{terms}jwks_file = \"{nowhere}\"")),
            "callers.shop.jwt.jwks_file: must be usable: ",
        ),
        (
            caller("shop", &whole) + &caller("till", &whole),
            "callers.till.jwt: issuer, audience and subject together must belong to one caller",
        ),
    ];
    for (text, expected) in table {
        let refused = load(&text, &[]).unwrap_err().to_string();
        assert!(refused.contains(expected), "{text}\n{refused}");
        assert_eq!(refused.lines().count(), 1, "{refused}");
        assert!(!refused.contains("canary"), "{refused}");
    }
}
