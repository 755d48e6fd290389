//! Callers that show tokens which their workload's issuer has signed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Caller, Unauthenticated};
use crate::{
    jwt::{Keys, Terms, Times, Token},
    purchase::Timestamp,
};

/// The most checked tokens that are remembered.
const CHECKED_MAX: usize = 10_000;

/// Checked tokens by their SHA-256, each with its caller and its times.
type Checked = HashMap<[u8; 32], (Caller, Times)>;

/// The tokens of a caller: their claims, and the keys that sign them.
#[derive(Debug, Clone)]
pub struct Workload {
    /// The claims.
    pub terms: Terms,
    /// The keys.
    pub keys: Keys,
}

/// All callers with such tokens, in the order of their names.
#[derive(Clone, Default)]
pub(super) struct Workloads {
    entries: Vec<(Workload, Caller)>,
    /// Tokens that were checked under these entries, by SHA-256: a signature costs more than the rest
    /// of a call's admission. Other entries begin with an empty memory.
    checked: Arc<Mutex<Checked>>,
}

impl Workloads {
    pub(super) fn add(&mut self, workload: Workload, caller: Caller) {
        self.entries.push((workload, caller));
        self.forget();
    }

    fn checked(&self) -> MutexGuard<'_, Checked> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&mut self) {
        self.checked = Arc::default();
    }

    pub(super) fn callers(&self) -> impl Iterator<Item = &Caller> {
        self.entries.iter().map(|(_, caller)| caller)
    }

    pub(super) fn callers_mut(&mut self) -> impl Iterator<Item = &mut Caller> {
        self.forget();
        self.entries.iter_mut().map(|(_, caller)| caller)
    }

    /// The caller whose token this is; of several, the first. `hash` is the token's SHA-256.
    ///
    /// # Errors
    /// The token proves nobody; the reason is that of the caller whose token it is most like.
    pub(super) fn authenticate(
        &self,
        token: &str,
        hash: [u8; 32],
        now: Timestamp,
    ) -> Result<Caller, Unauthenticated> {
        if self.entries.is_empty() {
            return Err(Unauthenticated::Unknown);
        }
        let known = self.checked().get(&hash).cloned();
        if let Some((caller, times)) = known {
            times.check(now).map_err(Unauthenticated::Token)?;
            return Ok(caller);
        }
        let (caller, times) = self.check(token, now)?;
        let mut checked = self.checked();
        if checked.len() >= CHECKED_MAX {
            checked.retain(|_, (_, times)| times.check(now).is_ok());
        }
        if checked.len() >= CHECKED_MAX {
            checked.clear();
        }
        checked.insert(hash, (caller.clone(), times));
        Ok(caller)
    }

    fn check(&self, token: &str, now: Timestamp) -> Result<(Caller, Times), Unauthenticated> {
        let token = Token::parse(token).ok_or(Unauthenticated::Unknown)?;
        let mut nearest = None;
        for (workload, caller) in &self.entries {
            let checked = token.fits(&workload.terms);
            match checked.and_then(|()| token.check(&workload.keys, now)) {
                Ok(proof) => {
                    let caller = caller.clone().proved_by(proof.key_is_gone);
                    return Ok((caller, proof.times));
                }
                Err(refusal) => nearest = nearest.max(Some(refusal)),
            }
        }
        Err(nearest.map_or(Unauthenticated::Unknown, Unauthenticated::Token))
    }

    /// Takes the place of older callers: keys that are in both stay. Returns the number of keys that
    /// are gone.
    pub(super) fn succeed(&mut self, older: &Self) -> usize {
        self.forget();
        let mut gone = 0;
        for (old, caller) in &older.entries {
            let is_same = |(new, of): &&mut (Workload, Caller)| {
                of.name() == caller.name() && new.terms == old.terms
            };
            let same = self.entries.iter_mut().find(is_same);
            gone += match same {
                Some((new, _)) => new.renew(&old.keys),
                None => Keys::default().in_place_of(&old.keys).1,
            };
        }
        gone
    }
}

impl Workload {
    fn renew(&mut self, older: &Keys) -> usize {
        let (keys, gone) = self.keys.in_place_of(older);
        self.keys = keys;
        gone
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::{super::*, *};
    use crate::jwt::tests::{Issuer, claims, set, terms};

    const DAY_MS: i64 = 86_400_000;

    /// 2026-07-01T10:10:00Z.
    fn now() -> Timestamp {
        Timestamp::from_millis(1_782_900_600_000).unwrap()
    }

    fn caller(name: &str) -> Caller {
        Caller::new(Grant {
            name: CallerName::new(name),
            scopes: BTreeSet::from([Scope::Read]),
            accounts: None,
            limits: CallerLimits::default(),
        })
    }

    fn workload(keys: Keys) -> Workload {
        Workload {
            terms: terms(),
            keys,
        }
    }

    fn shown(directory: &Directory, token: &str, at: Timestamp) -> Result<Caller, Unauthenticated> {
        directory.authenticate(Some(&format!("Bearer {token}")), &[], at)
    }

    #[test]
    fn a_caller_is_known_by_its_workloads_token_beside_its_other_proofs() {
        let issuer = Issuer::new("one");
        let shop = caller("shop");
        let hash = Sha256::digest("opaque").into();
        let callers = Callers::default()
            .with(shop.clone(), &[hash], false)
            .with_names(&shop, &["shop.test".to_owned()])
            .with_workload(&shop, workload(set(&[issuer.jwk()])))
            .with(caller("local"), &[], true);
        let directory = Directory::new(callers);
        let token = issuer.token(&claims());
        for proof in ["opaque", &token, &token] {
            let found = shown(&directory, proof, now()).unwrap();
            assert_eq!(found.name().as_str(), "shop");
        }
        let named = directory.authenticate(None, &["shop.test".to_owned()], now());
        assert_eq!(named.unwrap().name().as_str(), "shop");
        let mut other = claims();
        other["sub"] = json!("other");
        let refused = shown(&directory, &issuer.token(&other), now()).err();
        let expected = Unauthenticated::Token(crate::jwt::Refusal::Subject);
        assert_eq!(refused, Some(expected), "it is not the anonymous caller's");
        let refused = shown(&directory, "garbage", now()).err();
        assert_eq!(refused, Some(Unauthenticated::Unknown));
    }

    #[test]
    fn a_token_that_was_checked_is_good_no_longer_than_it_says() {
        let issuer = Issuer::new("one");
        let callers =
            Callers::default().with_workload(&caller("shop"), workload(set(&[issuer.jwk()])));
        let directory = Directory::new(callers);
        let token = issuer.token(&claims());
        assert!(shown(&directory, &token, now()).is_ok());
        let tomorrow = Timestamp::from_millis(now().as_millis() + DAY_MS).unwrap();
        let yesterday = Timestamp::from_millis(now().as_millis() - DAY_MS).unwrap();
        use crate::jwt::Refusal::{Expired, NotYet};
        for (at, expected) in [(tomorrow, Expired), (yesterday, NotYet)] {
            let refused = shown(&directory, &token, at).err();
            assert_eq!(refused, Some(Unauthenticated::Token(expected)));
        }
        assert!(shown(&directory, &token, now()).is_ok());
    }

    #[test]
    fn tokens_are_remembered_up_to_a_bound() {
        let issuer = Issuer::new("one");
        let mut workloads = Workloads::default();
        workloads.add(workload(set(&[issuer.jwk()])), caller("shop"));
        let token = issuer.token(&claims());
        assert!(workloads.authenticate("no token", [1; 32], now()).is_err());
        assert!(
            workloads.checked().is_empty(),
            "what proves nothing is not kept"
        );
        assert!(workloads.authenticate(&token, [0; 32], now()).is_ok());
        let known = workloads.checked()[&[0; 32]].clone();
        let more = (1..CHECKED_MAX).map(|number| {
            let mut hash = [2; 32];
            hash[..8].copy_from_slice(&number.to_be_bytes());
            (hash, known.clone())
        });
        workloads.checked().extend(more);
        assert_eq!(workloads.checked().len(), CHECKED_MAX);
        assert!(workloads.authenticate(&token, [3; 32], now()).is_ok());
        assert_eq!(workloads.checked().len(), 1);
    }

    #[test]
    fn a_key_that_is_gone_revokes_what_its_tokens_opened_and_nothing_else() {
        let (one, two) = (Issuer::new("one"), Issuer::new("two"));
        let known =
            |keys: &Keys| Callers::default().with_workload(&caller("shop"), workload(keys.clone()));
        let directory = Directory::new(known(&set(&[one.jwk(), two.jwk()])));
        let tokens = [one.token(&claims()), two.token(&claims())];
        let [of_one, of_two] = tokens
            .each_ref()
            .map(|token| shown(&directory, token, now()).unwrap());
        assert_eq!(directory.replace(known(&set(&[two.jwk()]))), 1);
        assert!(of_one.is_revoked() && !of_two.is_revoked());
        let refused = shown(&directory, &tokens[0], now()).err();
        let expected = Unauthenticated::Token(crate::jwt::Refusal::Key);
        assert_eq!(refused, Some(expected));
        assert!(shown(&directory, &tokens[1], now()).is_ok());
        directory.replace(Callers::default());
        assert!(of_two.is_revoked());
    }
}
