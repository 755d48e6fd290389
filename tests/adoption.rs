//! A caller takes over purchases that exist at the provider already.

use tillwatch_proto::v1::{
    CreatePurchaseRequest, DevdraftReference, ProviderReference, PurchaseState,
    create_purchase_request::Order, provider_reference::Reference,
};
use tillwatch_sandbox::{Fault, Scenario};
use tonic::Code;

use crate::{
    house::{House, account},
    orders::request,
};

pub fn existing(key: &str, transaction_id: &str) -> CreatePurchaseRequest {
    let reference = Reference::Devdraft(DevdraftReference {
        transaction_id: transaction_id.to_owned(),
    });
    CreatePurchaseRequest {
        idempotency_key: key.to_owned(),
        account: account("devdraft"),
        order: Some(Order::Existing(ProviderReference {
            reference: Some(reference),
        })),
        ..CreatePurchaseRequest::default()
    }
}

/// A house without any purchase. Its provider has one, of this reference.
async fn forgetful() -> (House, String) {
    let mut house = House::still().await;
    let order = request("forgotten", "devdraft", Scenario::Stuck);
    house.create("shop", order).await;
    house.server.kill().await;
    house.forget();
    house.restart().await;
    let reference = house.sandbox.references("devdraft").pop().unwrap();
    (house, reference)
}

#[tokio::test]
async fn an_existing_purchase_is_found_and_tracked_by_one_caller() {
    let (house, reference) = forgetful().await;
    let mut shop = house.stub("shop").await;
    let adopted = shop.create_purchase(existing("a", &reference)).await;
    let adopted = adopted.unwrap().into_inner();
    assert!(!adopted.replayed);
    let purchase = adopted.purchase.unwrap();
    let status = purchase.status.unwrap();
    assert_eq!(status.revision, 2);
    assert_eq!(status.state(), PurchaseState::AwaitingPayment);
    assert_eq!(house.sandbox.created("devdraft"), 1);
    // The same caller under another key gets its purchase back.
    let again = shop.create_purchase(existing("b", &reference)).await;
    let again = again.unwrap().into_inner();
    assert!(again.replayed);
    assert_eq!(again.purchase.unwrap().id, purchase.id);
    let taken = house.refused("rival", existing("a", &reference)).await;
    assert_eq!(taken.reason, "REFERENCE_TAKEN");
    assert_eq!(taken.code, Code::PermissionDenied);
    assert_eq!(
        taken.purchase_id, None,
        "another's purchase has no name here"
    );
}

#[tokio::test]
async fn what_is_not_found_or_not_read_is_not_adopted_and_the_key_is_free() {
    let (house, reference) = forgetful().await;
    // The lost answer comes first: on a used connection the service would read once more.
    for fault in [Fault::Lost, Fault::NotJson, Fault::Unavailable] {
        house.sandbox.fault("devdraft", fault, 1);
        let unread = house.refused("shop", existing("key", &reference)).await;
        assert_eq!(unread.reason, "PROVIDER_UNREACHABLE", "{fault:?}");
        assert_eq!(unread.purchase_id, None);
    }
    let unknown = house.refused("shop", existing("key", "txn_unknown")).await;
    assert_eq!(unknown.reason, "REFERENCE_UNKNOWN");
    assert_eq!(unknown.code, Code::NotFound);
    let denied = house.refused("reader", existing("key", &reference)).await;
    assert_eq!(denied.reason, "SCOPE_MISSING");
    let adopted = house.create("shop", existing("key", &reference)).await;
    assert_eq!(adopted.status.unwrap().revision, 2);
}
