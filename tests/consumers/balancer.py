"""A client of a mesh: it knows several servers, checks their health itself, and makes one call for each
line that it reads, at a server that is well. It prints the code of each call.

    TOKEN=… balancer.py ADDRESS ADDRESS
"""

import json
import os
import sys

import grpc

CONFIG = json.dumps(
    {
        "healthCheckConfig": {"serviceName": "tillwatch.v1.PurchaseService"},
        "loadBalancingConfig": [{"round_robin": {}}],
    }
)
CALL_TIMEOUT_S = 10


def main() -> None:
    servers = "ipv4:" + ",".join(sys.argv[1:])
    metadata = [("authorization", "Bearer " + os.environ["TOKEN"])]
    # Of several addresses it would make an authority that is none, which HTTP/2 refuses.
    options = [("grpc.service_config", CONFIG), ("grpc.default_authority", "purchases")]
    with grpc.insecure_channel(servers, options=options) as channel:
        # The messages' fields are of no interest, so their bytes are enough.
        list_accounts = channel.unary_unary("/tillwatch.v1.PurchaseService/ListAccounts")
        for _ in sys.stdin:
            try:
                list_accounts(b"", timeout=CALL_TIMEOUT_S, metadata=metadata)
                print("OK", flush=True)
            except grpc.RpcError as error:
                print(error.code().name, flush=True)


main()
