use std::sync::atomic::Ordering;

use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        Ed25519KeyPair, KeyPair as _,
    },
};
use serde_json::{Value, json};

use super::*;

/// The modulus of a public key of RSA, and a token by each of its algorithms. The private key signed them
/// and was thrown away: ring makes no keys of RSA.
const RSA: &str = include_str!("tests/rsa.json");

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
fn a_key_of_rsa_signs_by_the_algorithm_that_its_set_names_and_by_no_other() {
    let made: Value = serde_json::from_str(RSA).unwrap();
    let tokens = made["tokens"].as_object().unwrap();
    let token = |algorithm: &str| tokens[algorithm].as_str().unwrap();
    let key = |alg: Option<&str>, kid: &str| {
        let modulus = &made["modulus"];
        let mut key = json!({"kty": "RSA", "kid": kid, "use": "sig", "n": modulus, "e": "AQAB"});
        if let Some(alg) = alg {
            key["alg"] = json!(alg);
        }
        key
    };
    assert_eq!(tokens.len(), 6);
    for named in tokens.keys() {
        let keys = set(&[key(Some(named), "rsa"), Issuer::new("other").jwk()]);
        for (used, token) in tokens {
            let expected = match used == named {
                true => "",
                false => "OTHER_ALGORITHM",
            };
            let token = token.as_str().unwrap();
            assert_eq!(
                refusal(token, &keys),
                expected,
                "{used} by a key of {named}"
            );
        }
    }
    let keys = set(&[key(None, "rsa")]);
    assert_eq!(refusal(token("RS256"), &keys), "");
    assert_eq!(
        refusal(token("PS256"), &keys),
        "OTHER_ALGORITHM",
        "the usual one is RS256"
    );
    assert_eq!(
        refusal(token("RS256"), &set(&[key(None, "else")])),
        "UNKNOWN_KEY"
    );
}

#[test]
fn keys_of_p_384_and_ed25519_sign_as_keys_of_p_256_do() {
    let random = SystemRandom::new();
    let refused = |key: Value, alg: &str, sign: &dyn Fn(&[u8]) -> Vec<u8>| {
        let header = json!({"alg": alg, "kid": key["kid"]}).to_string();
        let message = format!("{}.{}", encoded(header), encoded(claims().to_string()));
        let signature = encoded(sign(message.as_bytes()));
        refusal(&format!("{message}.{signature}"), &set(&[key]))
    };

    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
    let public = encoded(pair.public_key().as_ref());
    let key = json!({"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": public});
    let sign = |message: &[u8]| pair.sign(message).as_ref().to_vec();
    assert_eq!(refused(key, "EdDSA", &sign), "");

    let curve = &ECDSA_P384_SHA384_FIXED_SIGNING;
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(curve, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(curve, pkcs8.as_ref(), &random).unwrap();
    let (x, y) = pair.public_key().as_ref()[1..].split_at(48);
    let key = json!({"kty": "EC", "crv": "P-384", "kid": "ec", "x": encoded(x), "y": encoded(y)});
    let sign = |message: &[u8]| pair.sign(&random, message).unwrap().as_ref().to_vec();
    assert_eq!(refused(key.clone(), "ES384", &sign), "");
    assert_eq!(refused(key, "ES256", &sign), "OTHER_ALGORITHM");
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
