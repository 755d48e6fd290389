//! The public keys of a JSON Web Key Set (RFC 7517), each with the one algorithm by which it signs.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey, VerificationAlgorithm,
};
use serde::Deserialize;

use super::Refusal;

/// The most keys of one set.
const KEYS_MAX: usize = 1_000;
/// The shortest and the longest modulus of RSA, in bytes.
const MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=1_024;

/// The reason why a set cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// It is no JSON object with a list `keys` of objects.
    #[error("must be a JSON Web Key Set")]
    NoSet,
    /// It has too many.
    #[error("must have at most 1000 keys")]
    TooMany,
    /// A key of a known kind is damaged or too short.
    #[error("key {0} must be whole: RSA of 2048 to 8192 bits, EC on P-256 or P-384, or Ed25519")]
    Damaged(usize),
    /// It has no key that can be used.
    #[error("must have a key of RSA, EC (P-256, P-384) or Ed25519 for signatures")]
    None,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Member>,
}

#[derive(Deserialize)]
struct Member {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    r#use: Option<String>,
    crv: Option<String>,
    #[serde(rename = "n")]
    modulus: Option<String>,
    #[serde(rename = "e")]
    exponent: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// The keys by which tokens of one issuer are signed.
#[derive(Clone, Default)]
pub struct Keys(Vec<Key>);

impl fmt::Debug for Keys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} keys", self.0.len())
    }
}

/// One public key.
#[derive(Clone)]
pub(super) struct Key {
    kid: Option<String>,
    algorithm: &'static str,
    public: Public,
    is_gone: Arc<AtomicBool>,
}

#[derive(Clone, PartialEq, Eq)]
enum Public {
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// A point of an elliptic curve, as its algorithm writes it.
    Point(Vec<u8>),
}

impl PartialEq for Keys {
    /// True if both have the same keys, whatever hangs on them.
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(|(one, two)| one.is(two))
    }
}

impl Keys {
    /// The keys of a set for signatures. Keys of other kinds or for other uses are passed over, shared
    /// secrets above all.
    ///
    /// # Errors
    /// The set cannot be used.
    pub fn parse(text: &[u8]) -> Result<Self, KeysError> {
        let set: Set = serde_json::from_slice(text).map_err(|_| KeysError::NoSet)?;
        if set.keys.len() > KEYS_MAX {
            return Err(KeysError::TooMany);
        }
        let mut keys = Vec::new();
        for (place, member) in set.keys.into_iter().enumerate() {
            let Some(algorithm) = algorithm(&member) else {
                continue;
            };
            let public = public(&member, algorithm).ok_or(KeysError::Damaged(place + 1))?;
            keys.push(Key {
                kid: member.kid,
                algorithm,
                public,
                is_gone: Arc::default(),
            });
        }
        match keys.is_empty() {
            true => Err(KeysError::None),
            false => Ok(Self(keys)),
        }
    }

    /// The key with this `kid`, or without one the only key; it has to sign by this algorithm.
    pub(super) fn find(&self, kid: Option<&str>, algorithm: &str) -> Result<&Key, Refusal> {
        let may_be = |key: &&Key| match kid {
            Some(kid) => key.kid.as_deref() == Some(kid),
            None => key.algorithm == algorithm,
        };
        let mut keys = self.0.iter().filter(may_be);
        let (Some(key), None) = (keys.next(), keys.next()) else {
            return Err(Refusal::Key);
        };
        match key.algorithm == algorithm {
            true => Ok(key),
            false => Err(Refusal::Algorithm),
        }
    }

    /// These keys in the place of older ones. Keys that stay keep what hangs on them, and keys that do
    /// not are gone from now on; returns the number of those too.
    pub fn in_place_of(&self, older: &Self) -> (Self, usize) {
        let mut keys = self.clone();
        let mut gone = 0;
        for key in &mut keys.0 {
            key.is_gone = match older.0.iter().find(|old| old.is(key)) {
                Some(old) => Arc::clone(&old.is_gone),
                None => Arc::default(),
            };
        }
        for old in &older.0 {
            if !self.0.iter().any(|key| key.is(old)) {
                old.is_gone.store(true, Ordering::Relaxed);
                gone += 1;
            }
        }
        (keys, gone)
    }
}

impl Key {
    /// True if it is the same key.
    fn is(&self, other: &Self) -> bool {
        self.kid == other.kid && self.algorithm == other.algorithm && self.public == other.public
    }

    pub(super) fn is_gone(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_gone)
    }

    /// True if this key has signed the message.
    pub(super) fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let verified = match &self.public {
            Public::Rsa { modulus, exponent } => {
                let Some(parameters) = rsa(self.algorithm) else {
                    return false;
                };
                let components = RsaPublicKeyComponents {
                    n: modulus,
                    e: exponent,
                };
                components.verify(parameters, message, signature)
            }
            Public::Point(point) => {
                let Some(curve) = curve(self.algorithm) else {
                    return false;
                };
                UnparsedPublicKey::new(curve, point).verify(message, signature)
            }
        };
        verified.is_ok()
    }
}

/// The algorithm of a key for signatures: the one that it names, or else the usual one of its kind.
/// `None` if it is no such key.
fn algorithm(member: &Member) -> Option<&'static str> {
    if member.r#use.as_deref().is_some_and(|usage| usage != "sig") {
        return None;
    }
    let of_kind: &[&'static str] = match (member.kty.as_str(), member.crv.as_deref()) {
        ("RSA", _) => &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
        ("EC", Some("P-256")) => &["ES256"],
        ("EC", Some("P-384")) => &["ES384"],
        ("OKP", Some("Ed25519")) => &["EdDSA"],
        _ => return None,
    };
    match &member.alg {
        None => of_kind.first().copied(),
        Some(named) => of_kind.iter().find(|known| *known == named).copied(),
    }
}

/// The public key itself.
fn public(member: &Member, algorithm: &str) -> Option<Public> {
    let read = |text: &Option<String>| BASE64_URL_SAFE_NO_PAD.decode(text.as_deref()?).ok();
    let of_length =
        |text: &Option<String>, length| read(text).filter(|bytes| bytes.len() == length);
    Some(match algorithm {
        "ES256" | "ES384" => {
            let length = if algorithm == "ES256" { 32 } else { 48 };
            let (x, y) = (of_length(&member.x, length)?, of_length(&member.y, length)?);
            // An uncompressed point (SEC 1, 2.3.3).
            Public::Point([&[4][..], &x, &y].concat())
        }
        "EdDSA" => Public::Point(of_length(&member.x, 32)?),
        _ => {
            let (modulus, exponent) = (
                whole(read(&member.modulus)?),
                whole(read(&member.exponent)?),
            );
            let is_long = MODULUS_BYTES.contains(&modulus.len());
            let has_2048_bits = modulus.len() > *MODULUS_BYTES.start()
                || modulus.first().is_some_and(|first| *first >= 0x80);
            if !is_long || !has_2048_bits || exponent.is_empty() {
                return None;
            }
            Public::Rsa { modulus, exponent }
        }
    })
}

/// A number without the zeros before it, which some writers add.
fn whole(number: Vec<u8>) -> Vec<u8> {
    number.into_iter().skip_while(|byte| *byte == 0).collect()
}

fn rsa(algorithm: &str) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        "RS256" => &RSA_PKCS1_2048_8192_SHA256,
        "RS384" => &RSA_PKCS1_2048_8192_SHA384,
        "RS512" => &RSA_PKCS1_2048_8192_SHA512,
        "PS256" => &RSA_PSS_2048_8192_SHA256,
        "PS384" => &RSA_PSS_2048_8192_SHA384,
        "PS512" => &RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

fn curve(algorithm: &str) -> Option<&'static dyn VerificationAlgorithm> {
    Some(match algorithm {
        "ES256" => &ECDSA_P256_SHA256_FIXED,
        "ES384" => &ECDSA_P384_SHA384_FIXED,
        "EdDSA" => &ED25519,
        _ => return None,
    })
}
