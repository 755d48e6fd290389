"""A client of generated stubs: creates, watches to the end, and reads the details of errors.

Started by tests/consumers.rs with the server's address and a caller's token.
"""

import sys

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from tillwatch.v1 import purchase_pb2, purchase_service_pb2, purchase_service_pb2_grpc


def create(key, amount):
    request = purchase_service_pb2.CreatePurchaseRequest(
        idempotency_key=key, account="devdraft-main", labels={"from": "python"}
    )
    order = request.devdraft.stablecoin
    order.source_currency = "usdc"
    order.source_network = "ethereum"
    order.destination_currency = "eurc"
    order.destination_network = "base"
    order.destination_address = "0x0000000000000000000000000000000000000001"
    order.amount = amount
    return request


def details(error):
    """The details of a failed call by their type, and its code."""
    status = rpc_status.from_call(error)
    found = {}
    for packed in status.details:
        for kind in (
            error_details_pb2.ErrorInfo,
            error_details_pb2.BadRequest,
            error_details_pb2.RetryInfo,
        ):
            if packed.Is(kind.DESCRIPTOR):
                message = kind()
                packed.Unpack(message)
                found[kind.__name__] = message
    return found


def refused(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except grpc.RpcError as error:
        return error
    raise AssertionError("the call did not fail")


def main(address, token):
    metadata = (("authorization", f"Bearer {token}"),)
    with grpc.insecure_channel(address) as channel:
        stub = purchase_service_pb2_grpc.PurchaseServiceStub(channel)
        made = stub.CreatePurchase(create("python", "100.00"), metadata=metadata, timeout=20)
        assert not made.replayed
        purchase = made.purchase
        again = stub.CreatePurchase(create("python", "100.00"), metadata=metadata, timeout=20)
        assert again.replayed and again.purchase.id == purchase.id

        watch = purchase_service_pb2.WatchStatusRequest(purchase_id=purchase.id, after_revision=0)
        revisions = []
        state = None
        for event in stub.WatchStatus(watch, metadata=metadata, timeout=20):
            if event.HasField("transition"):
                status = event.transition.status
                revisions.append(status.revision)
                state = status.state
        assert revisions == list(range(1, len(revisions) + 1)), revisions
        assert state == purchase_pb2.PURCHASE_STATE_COMPLETED, state

        error = refused(
            stub.CreatePurchase, create("python", "100.01"), metadata=metadata, timeout=20
        )
        assert error.code() == grpc.StatusCode.ALREADY_EXISTS, error
        info = details(error)["ErrorInfo"]
        assert (info.domain, info.reason) == ("tillwatch", "IDEMPOTENCY_KEY_REUSED"), info
        assert info.metadata["purchase_id"] == purchase.id
        assert info.metadata["fields"] == "stablecoin.amount", info

        error = refused(
            stub.CreatePurchase, create("", "no number"), metadata=metadata, timeout=20
        )
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
        fields = {v.field for v in details(error)["BadRequest"].field_violations}
        assert fields == {"idempotency_key"}, fields

        error = refused(
            stub.CreatePurchase, create("x", "no number"), metadata=metadata, timeout=20
        )
        fields = {v.field for v in details(error)["BadRequest"].field_violations}
        assert fields == {"devdraft.stablecoin.amount"}, fields

        error = refused(stub.ListAccounts, purchase_service_pb2.ListAccountsRequest(), timeout=20)
        assert error.code() == grpc.StatusCode.UNAUTHENTICATED, error
    print("all as promised")


main(*sys.argv[1:])
