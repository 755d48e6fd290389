//! Names: of purchases, accounts and callers; and the number of a revision.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// A text that is no name of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid name")]
pub struct IdError;

/// A purchase's name: `pur_` and 32 lower-case hexadecimal digits of a time-ordered UUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PurchaseId(u128);

impl PurchaseId {
    /// The name made of a time-ordered UUID (version 7).
    pub fn from_uuid(uuid: uuid::Uuid) -> Self {
        Self(uuid.as_u128())
    }

    /// The 128 bits behind the name.
    pub fn as_u128(self) -> u128 {
        self.0
    }

    /// The name with these 128 bits behind it.
    pub fn from_u128(bits: u128) -> Self {
        Self(bits)
    }
}

impl fmt::Display for PurchaseId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "pur_{:032x}", self.0)
    }
}

impl fmt::Debug for PurchaseId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for PurchaseId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let digits = text.strip_prefix("pur_").ok_or(IdError)?;
        let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if digits.len() != 32 || !digits.bytes().all(lower) {
            return Err(IdError);
        }
        u128::from_str_radix(digits, 16)
            .map(Self)
            .map_err(|_| IdError)
    }
}

/// The number of a status of one purchase: 1, 2, 3 … without gaps. 0 stands before the first.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Revision(pub u32);

impl Revision {
    /// The first status of a purchase.
    pub const FIRST: Self = Self(1);

    /// The revision after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

/// Defines a name that the configuration gives: cheap to clone, compared by its text.
macro_rules! configured_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name with this text.
            pub fn new(text: &str) -> Self {
                Self(Arc::from(text))
            }

            /// The name's text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }
    };
}

configured_name! {
    /// A configured account at a provider: the unit of budget and of ownership.
    AccountName
}
configured_name! {
    /// An authenticated client: the tenant.
    CallerName
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_purchase_id_is_read_back_as_it_was_written_and_nothing_else_is_one() {
        let id = PurchaseId::from_u128(0x0199_aabb_ccdd_7000_8000_0000_0000_0001);
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in [
            "",
            "pur_",
            "pur_0",
            "PUR_0199aabbccdd70008000000000000001",
            "x",
        ] {
            assert_eq!(text.parse::<PurchaseId>(), Err(IdError), "{text}");
        }
        let upper = id.to_string().replace("aabb", "AABB");
        assert_eq!(upper.parse::<PurchaseId>(), Err(IdError));
        assert_eq!(format!("{id}0").parse::<PurchaseId>(), Err(IdError));
    }
}
