//! Ids and hashes that follow from the seed and a running number, so that a run can be repeated.

/// The seed and the running number of one purchase.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ids {
    pub(crate) seed: u64,
    pub(crate) number: u64,
}

impl Ids {
    /// A version 4 UUID; `salt` tells several ids of one purchase apart.
    pub(crate) fn uuid(self, salt: u64) -> String {
        let high = u128::from(self.mix(salt, 0)) << 64;
        let bytes = (high | u128::from(self.mix(salt, 1))).to_be_bytes();
        uuid::Builder::from_random_bytes(bytes)
            .into_uuid()
            .to_string()
    }

    /// 64 hexadecimal digits.
    pub(crate) fn hash(self, salt: u64) -> String {
        (0..4)
            .map(|part| format!("{:016x}", self.mix(salt, part)))
            .collect()
    }

    /// Letters and digits of an alphabet.
    pub(crate) fn letters(self, salt: u64, alphabet: &str, length: usize) -> String {
        let letters: Vec<char> = alphabet.chars().collect();
        let count = letters.len().max(1) as u64;
        (0..length as u64)
            .filter_map(|part| {
                let index = usize::try_from(self.mix(salt, part) % count).ok()?;
                letters.get(index).copied()
            })
            .collect()
    }

    /// An id that sorts like the running number, in the manner of a cuid.
    pub(crate) fn ascending(self, prefix: &str) -> String {
        format!(
            "{prefix}{:012x}{}",
            self.number,
            self.hash(9).get(..9).unwrap_or_default()
        )
    }

    /// A number without a pattern (the finaliser of SplitMix64, public domain).
    pub(crate) fn mix(self, salt: u64, part: u64) -> u64 {
        let mut word = self
            .seed
            .wrapping_add(self.number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
            .wrapping_add(salt.wrapping_mul(0xd1b5_4a32_d192_ed03))
            .wrapping_add(part.wrapping_mul(0x8cb9_2ba7_2f3d_8dd7));
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::Ids;

    #[test]
    fn the_same_seed_gives_the_same_ids_and_they_differ_by_number() {
        let first = Ids { seed: 7, number: 1 };
        assert_eq!(first.uuid(0), Ids { seed: 7, number: 1 }.uuid(0));
        assert_ne!(first.uuid(0), first.uuid(1));
        assert_ne!(first.hash(0), Ids { seed: 7, number: 2 }.hash(0));
        assert!(first.ascending("cm") < Ids { seed: 7, number: 2 }.ascending("cm"));
        assert_eq!(first.letters(0, "ab", 5).len(), 5);
    }
}
