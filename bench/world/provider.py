"""Providers as these measurements need them: Devdraft and Phygitals in their plainest words.

Each read of a purchase is counted. A purchase can be told to answer with another HTTP status for
ever, which no simulated life of the sandbox does.
"""

import asyncio
import collections
import json

AWAITING = "AWAITING_FUNDS"


class Provider:
    """Answers over HTTP/1.1 on a loopback port."""

    def __init__(self):
        self.reads = collections.Counter()
        self.creates = 0
        # By id: the HTTP status, headers and body of every later read.
        self.answers = {}
        # By id: the word; AWAITING_FUNDS if there is none.
        self.words = {}
        self.hold_seconds = 0.0

    async def start(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        return self.server.sockets[0].getsockname()[1]

    async def serve(self, reader, writer):
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                line, *fields = head.split("\r\n")
                length = next(
                    (int(f.split(":")[1]) for f in fields if f.lower().startswith("content-length:")),
                    0,
                )
                body = await reader.readexactly(length)
                method, path, _ = line.split(" ")
                status, headers, answer = await self.answer(method, path, body)
                text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                writer.write(
                    f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n"
                    f"content-length: {len(text)}\r\n{headers}\r\n".encode()
                    + text
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, method, path, body):
        if path.endswith("/api/vm/buy/crypto"):
            self.creates += 1
            return 200, "", {"result": {"session_id": f"s-{self.creates}", "nfts": []}}
        if path.endswith("/api/vm/buy/status"):
            session = json.loads(body)["session_id"]
            self.reads[session] += 1
            await asyncio.sleep(self.hold_seconds)
            return self.answers.get(session, (200, "", {"status": "pending"}))
        if method == "POST":
            self.creates += 1
            return 201, "", {"id": f"txn_{self.creates:026d}", "state": "pending", "amount": "100.00"}
        transaction = path.split("/")[-2]
        self.reads[transaction] += 1
        word = self.words.get(transaction, AWAITING)
        return self.answers.get(
            transaction, (200, "", {"id": transaction, "status": word, "amount": "100.00"})
        )
