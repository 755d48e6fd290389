use std::sync::atomic::Ordering;

use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
};
use serde_json::{Value, json};

use super::*;

/// A public key of RSA, and tokens that its private key has signed by RS256 and by PS256 before it was
/// thrown away: ring makes no keys of RSA.
const MODULUS: &str = "skkQ5tWcXa4QaY0oT2aH-Qusgne_3ocd2EL8X6IK3e76-XHS4tOrOgdk4egQ0_8ZD3ZsespeXPBdBO4A4Nfe\
    rn2p5ZScSZpQc-yv8FzAAbIjGE0YLlbA8KwVXuiEx_IvrOavqklsEOCI0l0qM_YDX86vWjv4sjqXqGBk2t7b\
    YrM8_khdhEksrb0JTGHgVnOdSiSPowhVdXxSS8Xm6S6ypO33VSzNIdBLAoq6sl2YSI-9a-qdQFgCihvNv7X1\
    6A3u5-cPVQlRFoNZGU6zFrcnAUlojCJazX-67nXBAfZuDnfaw_2taDKSYLtpCpwJfTUpcJnQnAFXWG1MBkdv\
    eKgIEw";
const RS256: &str = "eyJhbGciOiAiUlMyNTYiLCAia2lkIjogInJzYSIsICJ0eXAiOiAiSldUIn0.eyJpc3MiOiAiaHR0cHM6Ly9p\
    c3N1ZXIudGVzdCIsICJzdWIiOiAic3lzdGVtOnNlcnZpY2VhY2NvdW50OnNob3A6YnV5ZXIiLCAiYXVkIjog\
    WyJ0aWxsd2F0Y2giXSwgImV4cCI6IDE3ODI5MDM2MDAsICJpYXQiOiAxNzgyOTAwMDAwLCAibmJmIjogMTc4\
    MjkwMDAwMH0.V-tLTGl8ssHo9eN2KOjLqZlfO4HJJMMn06UwA9cDdxNbFiuuQxmryNADLjbL3WmXYe16lQrr\
    SXEVh5cwpv1CadKXQp2w1FrlYif3oBpw4ehtUq9sZ6orUzAjsppxr27X6P-qE861wKX3Ig-sTVaHqKMm-nv2\
    vW7BPf_OePT17bAorcQdr9q8yGqPtT-iRY9nFoNkgaGoHrURAGUsYMhKiTWlTGRXhucjJ76f2WswjmoRvlkw\
    ho4kIVRBjNz3MIZdxA8KFE0N-Xh4Q8NpKZRQMpTtc8u0gGXNn7hVT1o2nIPPCWKqtK5yvdts9i7sA_kGqq4p\
    uNAbwm6OzyH4RhWtYg";
const PS256: &str = "eyJhbGciOiAiUFMyNTYiLCAia2lkIjogInJzYSIsICJ0eXAiOiAiSldUIn0.eyJpc3MiOiAiaHR0cHM6Ly9p\
    c3N1ZXIudGVzdCIsICJzdWIiOiAic3lzdGVtOnNlcnZpY2VhY2NvdW50OnNob3A6YnV5ZXIiLCAiYXVkIjog\
    WyJ0aWxsd2F0Y2giXSwgImV4cCI6IDE3ODI5MDM2MDAsICJpYXQiOiAxNzgyOTAwMDAwLCAibmJmIjogMTc4\
    MjkwMDAwMH0.Nz2MiQho-0rJ_c8y20uhAqI8ZtWWh82Y_iOzLo2u9rIEBtN-tvpCKa1cBhsLdIDtlDzlHh4y\
    K1scyUVscUXbBBYWXU0mUW_dBhAzCDARYT9UHPY9tGeDMOfXGaOynpBDf2a0VREgFMDy07k34x7-tXKmPq-2\
    E4USYL86EvbDHGtS4Jm0JgkjDw5bYbe1j80hBbf_upcOwnKb1aMus_wgtXAB5BoI-YVjALn5SsjrXxqs_Z5l\
    IiVdif4eF_cdqspxXPOKfL4VC_3OtgTZsbgb74t0YL1cHagZrjRzN4km_fPS8uF9pfxBRFOYdWwinebHsIfn\
    4qyTir9zgCBlKdcrxA";

const ISSUER: &str = "https://issuer.test";
const SUBJECT: &str = "system:serviceaccount:shop:buyer";
const AUDIENCE: &str = "tillwatch";

/// The time of the claims: 2026-07-01T10:10:00Z.
const NOW_S: i64 = 1_782_900_600;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1_000).unwrap()
}

fn encoded(part: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(part)
}

/// An issuer with one key on P-256.
pub(crate) struct Issuer {
    kid: &'static str,
    key: EcdsaKeyPair,
    random: SystemRandom,
}

impl Issuer {
    pub(crate) fn new(kid: &'static str) -> Self {
        let random = SystemRandom::new();
        let curve = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(curve, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(curve, pkcs8.as_ref(), &random).unwrap();
        Self { kid, key, random }
    }

    /// Its public key.
    pub(crate) fn jwk(&self) -> Value {
        let (x, y) = self.key.public_key().as_ref()[1..].split_at(32);
        json!({"kty": "EC", "crv": "P-256", "kid": self.kid, "x": encoded(x), "y": encoded(y)})
    }

    fn signed(&self, header: &Value, claims: &str) -> String {
        let message = format!("{}.{}", encoded(header.to_string()), encoded(claims));
        let signature = self.key.sign(&self.random, message.as_bytes()).unwrap();
        format!("{message}.{}", encoded(signature))
    }

    /// A token with these claims.
    pub(crate) fn token(&self, claims: &Value) -> String {
        let header = json!({"alg": "ES256", "kid": self.kid, "typ": "JWT"});
        self.signed(&header, &claims.to_string())
    }
}

pub(crate) fn set(keys: &[Value]) -> Keys {
    Keys::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
}

pub(crate) fn terms() -> Terms {
    Terms {
        issuer: ISSUER.to_owned(),
        audience: AUDIENCE.to_owned(),
        subject: SUBJECT.to_owned(),
    }
}

/// Claims that fit [`terms`], and are good for an hour from 2026-07-01T10:00:00Z on.
pub(crate) fn claims() -> Value {
    json!({
        "iss": ISSUER, "sub": SUBJECT, "aud": [AUDIENCE, "other"],
        "iat": NOW_S - 600, "nbf": NOW_S - 600, "exp": NOW_S + 3_000, "more": {"is": "ignored"},
    })
}

/// Claims in which a member is another, or is missing.
fn but(member: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[member] = value;
    claims
        .as_object_mut()
        .unwrap()
        .retain(|_, value| !value.is_null());
    claims
}

/// The reason why a token proves nothing, or nothing if it does. A text that is no token has the word
/// `NONE`.
fn refusal(token: &str, keys: &Keys) -> &'static str {
    let Some(token) = Token::parse(token) else {
        return "NONE";
    };
    let checked = token.fits(&terms());
    let checked = checked.and_then(|()| token.check(keys, at(NOW_S)).map(|_| ()));
    checked.map_or_else(Refusal::word, |()| "")
}

#[test]
fn a_token_proves_what_its_issuer_has_signed_for_us_and_for_now() {
    let issuer = Issuer::new("one");
    let keys = set(&[issuer.jwk()]);
    let (over, ahead) = (NOW_S - 30, NOW_S + 31);
    let table = [
        (claims(), ""),
        (but("aud", json!(AUDIENCE)), ""),
        (but("nbf", Value::Null), ""),
        (but("iat", Value::Null), ""),
        (but("exp", json!(NOW_S - 29)), ""),
        (but("nbf", json!(NOW_S + 30)), ""),
        (but("exp", json!(9_007_199_254_740_993_i64)), ""),
        (but("iss", json!("https://issuer.test/")), "UNKNOWN_ISSUER"),
        (
            but("sub", json!("system:serviceaccount:shop:buyer2")),
            "UNKNOWN_SUBJECT",
        ),
        (but("sub", json!("")), "UNKNOWN_SUBJECT"),
        (but("aud", json!("tillwatch2")), "OTHER_AUDIENCE"),
        (but("aud", json!([])), "OTHER_AUDIENCE"),
        (but("exp", json!(over)), "TOKEN_EXPIRED"),
        (but("exp", json!(-1)), "TOKEN_EXPIRED"),
        (but("nbf", json!(ahead)), "TOKEN_NOT_YET_VALID"),
        (but("exp", Value::Null), "NONE"),
        (but("exp", json!("1782903600")), "NONE"),
        (but("exp", json!([1_782_903_600])), "NONE"),
        (but("nbf", json!("1782903600")), "NONE"),
        (but("iss", Value::Null), "NONE"),
        (but("iss", json!([ISSUER])), "NONE"),
        (but("sub", Value::Null), "NONE"),
        (but("aud", Value::Null), "NONE"),
        (but("aud", json!([1, 2])), "NONE"),
    ];
    for (claims, expected) in table {
        let token = issuer.token(&claims);
        assert_eq!(refusal(&token, &keys), expected, "{claims}");
    }
    let header = json!({"alg": "ES256", "kid": "one"});
    for (text, expected) in [
        ("\"exp\":1782903600.5", ""),
        ("\"exp\":1.7829036e9", "NONE"),
        ("\"exp\":1e400", "NONE"),
        ("\"exp\":1782900600,\"exp\":1782903600", "NONE"),
    ] {
        let claims =
            format!("{{\"iss\":\"{ISSUER}\",\"sub\":\"{SUBJECT}\",\"aud\":\"{AUDIENCE}\",{text}}}");
        let token = issuer.signed(&header, &claims);
        assert_eq!(refusal(&token, &keys), expected, "{text}");
    }
}

#[test]
fn the_key_names_the_algorithm_and_no_token_talks_it_into_another() {
    let (issuer, other) = (Issuer::new("one"), Issuer::new("two"));
    let keys = set(&[issuer.jwk(), other.jwk()]);
    let text = claims().to_string();
    let signed = |header: Value| issuer.signed(&header, &text);
    let table = [
        (json!({"alg": "ES256", "kid": "one"}), ""),
        (
            json!({"alg": "ES256", "kid": "one", "jwk": other.jwk(), "jku": "http://x"}),
            "",
        ),
        (json!({"alg": "ES256", "kid": "two"}), "BAD_SIGNATURE"),
        (json!({"alg": "ES256", "kid": "three"}), "UNKNOWN_KEY"),
        (json!({"alg": "ES256", "kid": ""}), "UNKNOWN_KEY"),
        // Two keys fit.
        (json!({"alg": "ES256"}), "UNKNOWN_KEY"),
        (json!({"alg": "ES384", "kid": "one"}), "OTHER_ALGORITHM"),
        (json!({"alg": "es256", "kid": "one"}), "OTHER_ALGORITHM"),
        (json!({"alg": "none", "kid": "one"}), "OTHER_ALGORITHM"),
        (json!({"alg": "none"}), "UNKNOWN_KEY"),
        (json!({"alg": "HS256", "kid": "one"}), "OTHER_ALGORITHM"),
        (
            json!({"alg": "ES256", "kid": "one", "crit": ["exp"]}),
            "NONE",
        ),
        (json!({"alg": "ES256", "kid": "one", "crit": []}), "NONE"),
        (json!({"kid": "one"}), "NONE"),
        (json!({"alg": 1, "kid": "one"}), "NONE"),
    ];
    for (header, expected) in table {
        assert_eq!(
            refusal(&signed(header.clone()), &keys),
            expected,
            "{header}"
        );
    }
    let alone = set(&[issuer.jwk()]);
    assert_eq!(refusal(&signed(json!({"alg": "ES256"})), &alone), "");
    let twice = set(&[issuer.jwk(), issuer.jwk()]);
    let token = issuer.token(&claims());
    assert_eq!(
        refusal(&token, &twice),
        "UNKNOWN_KEY",
        "two keys of one name"
    );

    // The public key as a shared secret, and no signature at all.
    for alg in ["HS256", "none"] {
        let header = json!({"alg": alg, "kid": "one"}).to_string();
        let message = format!("{}.{}", encoded(header), encoded(&text));
        let secret = issuer.jwk().to_string();
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
        let signature = encoded(ring::hmac::sign(&key, message.as_bytes()));
        for signature in [signature.as_str(), ""] {
            let token = format!("{message}.{signature}");
            assert_eq!(refusal(&token, &keys), "OTHER_ALGORITHM", "{alg}");
        }
    }
    let secret = json!({"kty": "oct", "kid": "one", "alg": "HS256", "k": encoded("secret")});
    let shared = json!({ "keys": [secret] }).to_string();
    let refused = Keys::parse(shared.as_bytes()).err();
    assert_eq!(refused, Some(KeysError::None), "a shared secret is no key");
}

#[test]
fn what_is_no_token_or_was_changed_on_its_way_proves_nothing() {
    let issuer = Issuer::new("one");
    let keys = set(&[issuer.jwk()]);
    let token = issuer.token(&claims());
    let (message, signature) = token.rsplit_once('.').unwrap();
    let long = issuer.token(&but("more", json!("x".repeat(BYTES_MAX))));
    let garbage = [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "tw_abc",
        "a",
        long.as_str(),
        &format!("{token}.{signature}"),
        &format!("{token}="),
        &format!(" {token}"),
        &format!("{message}.{signature}!"),
        message,
    ];
    for text in garbage {
        assert_eq!(refusal(text, &keys), "NONE", "{text}");
    }
    assert_eq!(refusal(&format!("{message}."), &keys), "BAD_SIGNATURE");
    let half = signature.split_at(signature.len() / 2).0;
    assert_eq!(
        refusal(&format!("{message}.{half}A"), &keys),
        "BAD_SIGNATURE"
    );
    // A bit of the signed text or of the signature is another.
    let (header, payload) = message.split_once('.').unwrap();
    let forged = encoded(
        but("sub", json!(SUBJECT))
            .to_string()
            .replace("ignored", "ignorex"),
    );
    let forged = format!("{header}.{forged}.{signature}");
    assert_eq!(refusal(&forged, &keys), "BAD_SIGNATURE");
    let mut bytes = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
    for place in [0, 31, 32, 63] {
        bytes[place] ^= 1;
        let forged = format!("{header}.{payload}.{}", encoded(&bytes));
        assert_eq!(refusal(&forged, &keys), "BAD_SIGNATURE", "byte {place}");
        bytes[place] ^= 1;
    }
    assert_eq!(refusal(&token, &keys), "");
}

#[test]
fn keys_of_rsa_and_ed25519_sign_as_keys_of_p_256_do() {
    let rsa = |alg: Option<&str>, kid: &str| {
        let mut key = json!({"kty": "RSA", "kid": kid, "use": "sig", "n": MODULUS, "e": "AQAB"});
        if let Some(alg) = alg {
            key["alg"] = json!(alg);
        }
        key
    };
    let keys = set(&[rsa(None, "rsa"), Issuer::new("other").jwk()]);
    assert_eq!(refusal(RS256, &keys), "");
    assert_eq!(
        refusal(PS256, &keys),
        "OTHER_ALGORITHM",
        "the usual one is RS256"
    );
    let keys = set(&[rsa(Some("PS256"), "rsa")]);
    assert_eq!(refusal(PS256, &keys), "");
    assert_eq!(refusal(RS256, &keys), "OTHER_ALGORITHM");
    assert_eq!(refusal(RS256, &set(&[rsa(None, "else")])), "UNKNOWN_KEY");

    let random = SystemRandom::new();
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
    let public = encoded(pair.public_key().as_ref());
    let key = json!({"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": public});
    let header = json!({"alg": "EdDSA", "kid": "ed"}).to_string();
    let message = format!("{}.{}", encoded(header), encoded(claims().to_string()));
    let signature = encoded(pair.sign(message.as_bytes()));
    assert_eq!(refusal(&format!("{message}.{signature}"), &set(&[key])), "");
}

#[test]
fn a_set_is_read_whole_or_not_at_all() {
    let good = Issuer::new("one").jwk();
    let but = |member: &str, value: Value| {
        let mut key = good.clone();
        key[member] = value;
        key
    };
    let rsa = |modulus: String| json!({"kty": "RSA", "n": modulus, "e": "AQAB"});
    let table = [
        (json!([good]), None),
        // Keys of other kinds and for other uses are passed over.
        (
            json!([good, {"kty": "AKP"}, but("use", json!("enc")), but("alg", json!("ES512"))]),
            None,
        ),
        (
            json!([good, {"kty": "EC", "crv": "secp256k1", "x": "?"}]),
            None,
        ),
        (json!([]), Some(KeysError::None)),
        (json!([{"kty": "AKP"}]), Some(KeysError::None)),
        (
            json!([good, but("x", json!("AAAA"))]),
            Some(KeysError::Damaged(2)),
        ),
        (json!([but("y", json!("?"))]), Some(KeysError::Damaged(1))),
        (json!([but("y", Value::Null)]), Some(KeysError::Damaged(1))),
        (
            json!([rsa(encoded([255; 255]))]),
            Some(KeysError::Damaged(1)),
        ),
        (
            json!([rsa(encoded([127; 256]))]),
            Some(KeysError::Damaged(1)),
        ),
        (
            json!([rsa(encoded([255; 1_025]))]),
            Some(KeysError::Damaged(1)),
        ),
        (json!(vec![good.clone(); 1_001]), Some(KeysError::TooMany)),
        (json!("keys"), Some(KeysError::NoSet)),
    ];
    for (keys, expected) in table {
        let text = json!({ "keys": keys }).to_string();
        let refused = Keys::parse(text.as_bytes()).err();
        assert_eq!(refused, expected, "{:.200}", text);
    }
    for text in ["", "{}", "[]", "{\"keys\":[{}]}", "\u{feff}{}"] {
        assert_eq!(
            Keys::parse(text.as_bytes()).err(),
            Some(KeysError::NoSet),
            "{text}"
        );
    }
}

#[test]
fn a_key_that_is_not_in_a_newer_set_is_gone_and_the_others_stay() {
    let (one, two, three) = (Issuer::new("one"), Issuer::new("two"), Issuer::new("three"));
    let older = set(&[one.jwk(), two.jwk()]);
    let proof = |issuer: &Issuer, keys: &Keys| {
        let token = issuer.token(&claims());
        let proof = Token::parse(&token).unwrap().check(keys, at(NOW_S));
        proof.unwrap().key_is_gone
    };
    let (of_one, of_two) = (proof(&one, &older), proof(&two, &older));
    let (newer, gone) = set(&[two.jwk(), three.jwk()]).in_place_of(&older);
    assert_eq!(gone, 1);
    assert!(of_one.load(Ordering::Relaxed) && !of_two.load(Ordering::Relaxed));
    // A later loss reaches the tokens of all times.
    let again = proof(&two, &newer);
    let (_, gone) = Keys::default().in_place_of(&newer);
    assert_eq!(gone, 2);
    assert!(of_two.load(Ordering::Relaxed) && again.load(Ordering::Relaxed));
}
