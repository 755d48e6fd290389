//! The tokens of workloads: JSON Web Tokens (RFC 7519) in the compact form, checked against keys that
//! an operator gives.
//!
//! A key says by which algorithm it signs, and a token may only agree. There is no algorithm without a
//! signature, and none with a shared secret. Time is an argument.

mod file;
mod keys;

pub use file::KeyFileError;
pub use keys::{Keys, KeysError};

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::Number;

use crate::purchase::Timestamp;

/// The difference that a token's issuer's clock may have from this server's.
pub const LEEWAY: Duration = Duration::from_secs(30);
/// The longest token, in bytes.
pub const BYTES_MAX: usize = 8 * 1024;

/// The reason why a token proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// No caller has tokens of this issuer.
    Issuer,
    /// No caller is this subject of the issuer.
    Subject,
    /// The caller's tokens are for another audience.
    Audience,
    /// No key has the token's `kid`, or more than one key may be meant.
    Key,
    /// The key signs by another algorithm.
    Algorithm,
    /// The key has not signed this.
    Signature,
    /// Its time is over.
    Expired,
    /// Its time has not begun.
    NotYet,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Issuer,
        Self::Subject,
        Self::Audience,
        Self::Key,
        Self::Algorithm,
        Self::Signature,
        Self::Expired,
        Self::NotYet,
    ];

    /// Its word in the audit log and in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Issuer => "UNKNOWN_ISSUER",
            Self::Subject => "UNKNOWN_SUBJECT",
            Self::Audience => "OTHER_AUDIENCE",
            Self::Key => "UNKNOWN_KEY",
            Self::Algorithm => "OTHER_ALGORITHM",
            Self::Signature => "BAD_SIGNATURE",
            Self::Expired => "TOKEN_EXPIRED",
            Self::NotYet => "TOKEN_NOT_YET_VALID",
        }
    }
}

/// The claims that a caller's tokens have to make.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Terms {
    /// `iss`, letter by letter.
    pub issuer: String,
    /// One of the `aud`, letter by letter.
    pub audience: String,
    /// `sub`, letter by letter.
    pub subject: String,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that have to be understood, none of which is (RFC 7515, 4.1.11).
    crit: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    exp: Number,
    nbf: Option<Number>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// A text in the form of a token. Nothing about it is true yet.
pub struct Token<'a> {
    signed: &'a str,
    signature: Vec<u8>,
    header: Header,
    claims: Claims,
    times: Times,
}

/// The time for which a token is good, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// It is good before this second.
    expires: i64,
    /// It is good from this second on.
    begins: i64,
}

impl Times {
    /// Checks them against the clock, with [`LEEWAY`] on both sides.
    ///
    /// # Errors
    /// The time is over, or has not begun.
    pub fn check(self, now: Timestamp) -> Result<(), Refusal> {
        let leeway = i64::try_from(LEEWAY.as_millis()).unwrap_or(0);
        let millis = |seconds: i64| seconds.saturating_mul(1_000);
        if now.as_millis() >= millis(self.expires).saturating_add(leeway) {
            return Err(Refusal::Expired);
        }
        if now.as_millis() < millis(self.begins).saturating_sub(leeway) {
            return Err(Refusal::NotYet);
        }
        Ok(())
    }
}

/// The proof that a checked token gives, besides its caller.
#[derive(Debug, Clone)]
pub struct Proof {
    /// The time for which it is good.
    pub times: Times,
    /// True once its key is gone.
    pub key_is_gone: Arc<AtomicBool>,
}

impl<'a> Token<'a> {
    /// The token in a text. `None` if it is not three parts with the members that a token must have, or
    /// if it is longer than [`BYTES_MAX`].
    pub fn parse(text: &'a str) -> Option<Self> {
        if text.len() > BYTES_MAX {
            return None;
        }
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let read = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).ok();
        let header: Header = serde_json::from_slice(&read(header)?).ok()?;
        let claims: Claims = serde_json::from_slice(&read(claims)?).ok()?;
        if header.crit.is_some() {
            return None;
        }
        let times = Times {
            expires: seconds(&claims.exp)?,
            begins: claims.nbf.as_ref().map_or(Some(i64::MIN), seconds)?,
        };
        Some(Self {
            signed,
            signature: read(signature)?,
            header,
            claims,
            times,
        })
    }

    /// Compares what the token claims with a caller's terms. A refusal names the first that differs.
    ///
    /// # Errors
    /// Another issuer, subject or audience.
    pub fn fits(&self, terms: &Terms) -> Result<(), Refusal> {
        if self.claims.iss != terms.issuer {
            return Err(Refusal::Issuer);
        }
        if self.claims.sub != terms.subject {
            return Err(Refusal::Subject);
        }
        let is_meant = match &self.claims.aud {
            Audience::One(audience) => *audience == terms.audience,
            Audience::Many(audiences) => audiences.contains(&terms.audience),
        };
        is_meant.then_some(()).ok_or(Refusal::Audience)
    }

    /// Checks the signature, then the time.
    ///
    /// # Errors
    /// The token proves nothing.
    pub fn check(&self, keys: &Keys, now: Timestamp) -> Result<Proof, Refusal> {
        let (alg, kid) = (self.header.alg.as_str(), self.header.kid.as_deref());
        let key = keys.find(kid, alg)?;
        if !key.has_signed(self.signed.as_bytes(), &self.signature) {
            return Err(Refusal::Signature);
        }
        self.times.check(now)?;
        Ok(Proof {
            times: self.times,
            key_is_gone: key.is_gone(),
        })
    }
}

/// The whole seconds of a NumericDate (RFC 7519, 2), which may have a fraction.
fn seconds(date: &Number) -> Option<i64> {
    let text = date.to_string();
    let whole = text.split_once('.').map_or(&*text, |(whole, fraction)| {
        let is_plain = fraction.bytes().all(|byte| byte.is_ascii_digit());
        if is_plain { whole } else { "" }
    });
    whole.parse().ok()
}

#[cfg(test)]
pub(crate) mod tests;
