// The page: watches a purchase by gRPC-Web, and goes on after the last revision if the stream is lost.
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { PurchaseService } from "./gen/tillwatch/v1/purchase_service_pb.js";

const PAUSE_MS = 100;

// Calls `tell` with each revision and each loss, and returns the last state.
window.watch = async (server, token, purchaseId) => {
  const client = createClient(PurchaseService, createGrpcWebTransport({ baseUrl: server }));
  const headers = { authorization: `Bearer ${token}` };
  let afterRevision = 0;
  let state = 0;
  for (;;) {
    try {
      for await (const { event } of client.watchStatus({ purchaseId, afterRevision }, { headers })) {
        if (event.case === "transition") {
          ({ revision: afterRevision, state } = event.value.status);
          await window.tell({ revision: afterRevision });
        }
      }
      return state;
    } catch (error) {
      const { code } = ConnectError.from(error);
      await window.tell({ lost: Code[code] });
      // A browser says UNKNOWN if nobody answers.
      if (code !== Code.Unavailable && code !== Code.Unknown) throw error;
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
  }
};

// Makes one call, and returns its code.
window.call = async (server, token) => {
  const client = createClient(PurchaseService, createGrpcWebTransport({ baseUrl: server }));
  try {
    await client.listAccounts({}, { headers: { authorization: `Bearer ${token}` } });
    return "Ok";
  } catch (error) {
    return Code[ConnectError.from(error).code];
  }
};
