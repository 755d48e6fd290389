//! Creates whose answers are lost. The service buys nothing twice, and settles each as its provider
//! allows.

use tillwatch_proto::v1::{
    CarbonReference, Finality, NotCreated, PhygitalsReference, ProviderReference, PurchaseState,
    PurchaseStatus, ResolvePurchaseRequest, provider_reference::Reference,
    resolve_purchase_request::Resolution,
};
use tillwatch_sandbox::{Fault, Scenario, Target};
use tonic::Code;

use crate::{
    house::{House, refusal},
    orders::request,
};

/// Creates a purchase whose answer is lost after the provider has created it.
async fn lost(house: &House, provider: &str, key: &str) -> String {
    let order = request(key, provider, Scenario::Stuck);
    house
        .sandbox
        .fault_on(provider, Target::Create, Fault::Lost, 1);
    let purchase = house.create("shop", order).await;
    let status = purchase.status.unwrap();
    assert_eq!(status.state(), PurchaseState::OutcomeUnknown, "{provider}");
    let attention = status.attention.expect("attention").reason;
    assert_eq!(attention, "OUTCOME_UNKNOWN", "{provider}");
    purchase.id
}

fn is_known(status: &PurchaseStatus) -> bool {
    status.reference.is_some() && status.state() != PurchaseState::OutcomeUnknown
}

#[tokio::test]
async fn a_lost_answer_is_found_by_identifier_at_masumi_and_inabit() {
    let house = House::still().await;
    for provider in ["masumi", "inabit"] {
        let id = lost(&house, provider, provider).await;
        let status = house.settled("found by itself", &id, is_known).await;
        assert_eq!(status.state(), PurchaseState::Created, "{provider}");
        assert_eq!(house.sandbox.created(provider), 1, "{provider}");
        let posts = house.sandbox.requests().into_iter();
        let creates = posts.filter(|one| one.provider == provider && one.created.is_some());
        assert_eq!(creates.count(), 1, "{provider}");
    }
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_with_the_same_key_at_devdraft() {
    let house = House::still().await;
    let id = lost(&house, "devdraft", "lost").await;
    house.settled("repeated by itself", &id, is_known).await;
    assert_eq!(house.sandbox.created("devdraft"), 1);
    let requests = house.sandbox.requests();
    let posts = requests.iter().filter(|one| one.method == "POST");
    let keys: Vec<_> = posts.map(|one| one.idempotency_key.clone()).collect();
    assert!(keys.len() >= 2, "{keys:?}");
    assert!(
        keys[0].is_some() && keys.iter().all(|key| *key == keys[0]),
        "{keys:?}"
    );
}

#[tokio::test]
async fn where_nobody_can_be_asked_an_operator_names_the_reference() {
    let house = House::still().await;
    for provider in ["phygitals", "carbon"] {
        let id = lost(&house, provider, provider).await;
        // The service answers a repeat of the key from the journal.
        let mut shop = house.stub("shop").await;
        let again = shop
            .create_purchase(request(provider, provider, Scenario::Stuck))
            .await;
        let again = again.unwrap().into_inner();
        assert!(again.replayed);
        assert_eq!(
            again.purchase.unwrap().status.unwrap().state(),
            PurchaseState::OutcomeUnknown
        );
        assert_eq!(
            house.sandbox.calls(provider),
            1,
            "{provider} is not asked again"
        );
        let [named] = &house.sandbox.references(provider)[..] else {
            panic!("{provider}: not one purchase");
        };
        let reference = match provider {
            "phygitals" => Reference::Phygitals(PhygitalsReference {
                session_id: named.clone(),
            }),
            "carbon" => Reference::Carbon(CarbonReference {
                order_id: named.clone(),
                contact_id: "ab5b0000-0000-4000-8000-000000000001".to_owned(),
            }),
            _ => panic!("{provider} is not asked here"),
        };
        let resolution = ResolvePurchaseRequest {
            purchase_id: id.clone(),
            expected_revision: 2,
            resolution: Some(Resolution::Reference(ProviderReference {
                reference: Some(reference),
            })),
        };
        // The service refuses a caller without the scope, and a decision about an older revision.
        let denied = refusal(shop.resolve_purchase(resolution.clone()).await);
        assert_eq!(denied.reason, "SCOPE_MISSING");
        let mut desk = house.stub("desk").await;
        let older = ResolvePurchaseRequest {
            expected_revision: 1,
            ..resolution.clone()
        };
        let stale = refusal(desk.resolve_purchase(older).await);
        assert_eq!(
            (stale.reason.as_str(), stale.code),
            ("REVISION_CHANGED", Code::Aborted)
        );
        desk.resolve_purchase(resolution).await.unwrap();
        house.settled("followed from then on", &id, is_known).await;
        assert_eq!(house.sandbox.created(provider), 1);
    }
}

#[tokio::test]
async fn an_operator_states_that_nothing_was_created() {
    let house = House::still().await;
    let order = request("lost", "carbon", Scenario::Stuck);
    house
        .sandbox
        .fault_on("carbon", Target::Create, Fault::ResetBefore, 1);
    let id = house.create("shop", order).await.id;
    let wanted = |note: &str| ResolvePurchaseRequest {
        purchase_id: id.clone(),
        expected_revision: 2,
        resolution: Some(Resolution::NotCreated(NotCreated {
            note: note.to_owned(),
        })),
    };
    let mut desk = house.stub("desk").await;
    let empty = refusal(desk.resolve_purchase(wanted(" ")).await);
    assert_eq!(empty.violations[0].field, "not_created.note");
    let answer = desk
        .resolve_purchase(wanted("carbon said so on the phone"))
        .await;
    let purchase = answer.unwrap().into_inner().purchase.unwrap();
    let status = purchase.status.unwrap();
    assert_eq!(status.state(), PurchaseState::Failed);
    assert_eq!(status.finality(), Finality::Final);
    assert_eq!(status.failure.unwrap().reason, "NOT_CREATED");
    let last = desk.resolve_purchase(ResolvePurchaseRequest {
        expected_revision: 3,
        ..wanted("again")
    });
    assert_eq!(refusal(last.await).reason, "NOT_RESOLVABLE");
}
