use super::*;

/// A time that matters to no opaque token.
fn now() -> Timestamp {
    Timestamp::default()
}

fn caller(name: &str) -> Caller {
    Caller::new(Grant {
        name: CallerName::new(name),
        scopes: BTreeSet::from([Scope::Create, Scope::Read]),
        accounts: Some(BTreeSet::from([AccountName::new("masumi-main")])),
        limits: CallerLimits::default(),
    })
}

fn sha256(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

#[test]
fn a_caller_is_known_by_its_token_alone() {
    let callers = Callers::default()
        .with(caller("shop"), &[sha256("a"), sha256("b")], false)
        .with(caller("desk"), &[sha256("c")], false);
    let with_anonymous = callers.clone().with(caller("local"), &[], true);
    let unknown = Err(Unauthenticated::Unknown);
    let table = [
        (Some("Bearer a"), Ok("shop")),
        (Some("bearer b"), Ok("shop")),
        (Some("BEARER  c "), Ok("desk")),
        (Some("Bearer d"), unknown),
        (Some("Bearer A"), unknown),
        (Some("Bearer"), unknown),
        (Some("Bearer "), unknown),
        (Some(""), unknown),
        (Some("Basic a"), unknown),
        (Some("a"), unknown),
    ];
    for (header, expected) in table {
        for callers in [&callers, &with_anonymous] {
            let found = callers.authenticate(header, &[], now());
            let found = found.as_ref().map(|caller| caller.name().as_str());
            assert_eq!(found.map_err(|error| *error), expected, "{header:?}");
        }
    }
    assert_eq!(
        callers.authenticate(None, &[], now()).err(),
        Some(Unauthenticated::Missing)
    );
    let nobody = with_anonymous.authenticate(None, &[], now()).unwrap();
    assert_eq!(nobody.name().as_str(), "local");
    assert_eq!(
        Callers::default()
            .authenticate(Some("Bearer a"), &[], now())
            .err(),
        Some(Unauthenticated::Unknown)
    );
}

#[test]
fn a_caller_is_known_by_a_name_in_its_certificate_unless_it_shows_a_token() {
    let shop = caller("shop");
    let names = |names: &[&str]| {
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>()
    };
    let callers = Callers::default()
        .with(caller("desk"), &[sha256("c")], false)
        .with(shop.clone(), &[], false)
        .with_names(&shop, &names(&["spiffe://a/shop", "shop.test"]));
    let found = |header: Option<&str>, shown: &[&str]| {
        let found = callers.authenticate(header, &names(shown), now());
        found.map(|caller| caller.name().to_string())
    };
    let (shop, desk) = (Ok("shop".to_owned()), Ok("desk".to_owned()));
    assert_eq!(found(None, &["other.test", "spiffe://a/shop"]), shop);
    assert_eq!(
        found(None, &["SHOP.test"]),
        Err(Unauthenticated::UnknownCertificate)
    );
    assert_eq!(found(None, &[]), Err(Unauthenticated::Missing));
    assert_eq!(found(Some("Bearer c"), &["shop.test"]), desk);
    let unknown = Err(Unauthenticated::Unknown);
    assert_eq!(found(Some("Bearer d"), &["shop.test"]), unknown);
}

#[test]
fn a_caller_that_is_gone_or_has_lost_a_right_is_revoked_and_no_other() {
    let granted = |name: &str, scopes: &[Scope], accounts: Option<&[&str]>| {
        let named = |names: &[&str]| names.iter().map(|name| AccountName::new(name)).collect();
        Caller::new(Grant {
            name: CallerName::new(name),
            scopes: scopes.iter().copied().collect(),
            accounts: accounts.map(named),
            limits: CallerLimits::default(),
        })
    };
    let (read, both) = ([Scope::Read], [Scope::Read, Scope::Create]);
    let known =
        |token: &str, caller: Caller| Callers::default().with(caller, &[sha256(token)], false);
    let some: Option<&[&str]> = Some(&["a", "b"]);
    let table = [
        ("as it was", granted("shop", &both, some), true),
        ("with another right", granted("shop", &both, None), true),
        ("without a scope", granted("shop", &read, some), false),
        (
            "without an account",
            granted("shop", &both, Some(&["a"])),
            false,
        ),
        ("another caller", granted("other", &both, some), false),
    ];
    for (case, newer, is_kept) in table {
        let directory = Directory::new(known("old", granted("shop", &both, some)));
        let shop = directory
            .authenticate(Some("Bearer old"), &[], now())
            .unwrap();
        // A token is replaced by the way, which takes no right.
        let revoked = directory.replace(known("new", newer));
        assert_eq!(shop.is_revoked(), !is_kept, "{case}");
        assert_eq!(revoked, usize::from(!is_kept), "{case}");
        let old = directory.authenticate(Some("Bearer old"), &[], now()).err();
        assert_eq!(old, Some(Unauthenticated::Unknown), "{case}");
        let new = directory
            .authenticate(Some("Bearer new"), &[], now())
            .unwrap();
        assert!(!new.is_revoked(), "{case}");
        // A later loss reaches the streams of all times.
        directory.replace(Callers::default());
        assert!(shop.is_revoked() && new.is_revoked(), "{case}");
    }
}

#[test]
fn a_caller_may_do_and_use_what_it_is_given() {
    let shop = caller("shop");
    assert!(shop.may(Scope::Create) && shop.may(Scope::Read));
    assert!(!shop.may(Scope::Adopt) && !shop.may(Scope::Operate));
    assert!(shop.may_use(&AccountName::new("masumi-main")));
    assert!(!shop.may_use(&AccountName::new("carbon-main")));
    let all = Caller::new(Grant {
        name: CallerName::new("all"),
        scopes: BTreeSet::new(),
        accounts: None,
        limits: CallerLimits::default(),
    });
    assert!(all.may_use(&AccountName::new("anything")));
}

#[test]
fn a_scope_is_found_by_its_word() {
    for scope in [Scope::Create, Scope::Adopt, Scope::Read, Scope::Operate] {
        assert_eq!(Scope::named(scope.word()), Some(scope));
    }
    assert_eq!(Scope::named("Create"), None);
}

#[test]
fn a_new_token_is_its_callers_and_never_shown_by_accident() {
    let (token, hash) = new_token([7; 32]);
    assert!(token.expose().starts_with("tw_") && token.expose().len() == 46);
    assert_eq!(hash, hex::encode(sha256(token.expose())));
    assert_eq!(format!("{token:?}"), "[redacted]");
    assert_ne!(new_token([8; 32]).1, hash);
    let callers = Callers::default().with(caller("shop"), &[sha256(token.expose())], false);
    let header = format!("Bearer {}", token.expose());
    assert!(callers.authenticate(Some(&header), &[], now()).is_ok());
}
