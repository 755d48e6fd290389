"""Measures Tillwatch against the real world: clocks that step, foreign readers, greedy callers and
hostile peers. Each figure stands beside the same figure without the trouble, taken in the same run.

    cargo build --release && scripts/install-consumers
    .cache/python/bin/python bench/world/measure.py --binaries target/release [NAME …]

Prints one line of JSON for each measurement. Everything stays on loopback.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import mmap
import os
import pathlib
import signal
import socket
import sqlite3
import statistics
import struct
import subprocess
import sys
import tempfile
import time

import grpc

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE))

from provider import Provider  # noqa: E402


def stubs():
    """Generates the stubs into the temporary folder of the process."""
    folder = tempfile.mkdtemp(prefix="tillwatch-stubs-")
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}",
         f"--python_out={folder}", f"--grpc_python_out={folder}",
         *(str(path) for path in (ROOT / "proto/tillwatch/v1").glob("*.proto"))],
        check=True,
    )
    sys.path.insert(0, folder)


stubs()
from tillwatch.v1 import purchase_service_pb2 as pb  # noqa: E402
from tillwatch.v1 import purchase_service_pb2_grpc as rpc  # noqa: E402

CALLERS = ("shop", "other")


class Server:
    """The real server over a provider of these measurements."""

    def __init__(self, binaries, provider_port, provider="devdraft", polling="", extra="", clock=False):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="tillwatch-world-"))
        self.binaries, self.clock = pathlib.Path(binaries), clock
        secrets = {
            "devdraft": 'client_key = "k"\nclient_secret = "s"',
            "phygitals": 'api_key = "k"',
        }[provider]
        callers = "".join(
            f'[callers.{name}]\ntoken_sha256 = ["{hashlib.sha256(name.encode()).hexdigest()}"]\n'
            'accounts = ["main"]\nscopes = ["create", "adopt", "read"]\n'
            for name in CALLERS
        )
        self.port, ops = free_port(), free_port()
        (self.folder / "server.toml").write_text(
            f'[listen]\ngrpc = "127.0.0.1:{self.port}"\nops = "127.0.0.1:{ops}"\n'
            f'[store]\nurl = "sqlite:{self.folder}/tillwatch.db"\n{callers}'
            f'[accounts.main]\nprovider = "{provider}"\n'
            f'base_url = "http://127.0.0.1:{provider_port}"\n{secrets}\n'
            "allow_insecure = true\nallow_private_networks = true\n"
            f"[accounts.main.polling]\n{polling}\n{extra}\n"
        )
        self.process = None

    async def start(self):
        environment = dict(os.environ)
        if self.clock:
            library = self.folder / "clock.so"
            if not library.exists():
                command = ["cc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "clock.c", "-ldl"]
                subprocess.run(command, check=True)
                (self.folder / "offset").write_bytes(bytes(8))
            environment |= {"LD_PRELOAD": str(library), "WORLD_CLOCK": str(self.folder / "offset")}
        log = open(self.folder / "log", "ab")
        self.process = subprocess.Popen(
            [self.binaries / "tillwatch-server", "serve", "--config", self.folder / "server.toml"],
            env=environment, stdout=log, stderr=log,
        )
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.port}")
        self.stub = rpc.PurchaseServiceStub(self.channel)
        for _ in range(600):
            with contextlib.suppress(grpc.RpcError):
                await self.stub.ListAccounts(pb.ListAccountsRequest(), metadata=token("shop"), timeout=5)
                return self
            if self.process.poll() is not None:
                raise RuntimeError((self.folder / "log").read_text()[-2000:])
            await asyncio.sleep(0.1)
        raise RuntimeError("the server does not serve")

    def step(self, seconds):
        with open(self.folder / "offset", "r+b") as file:
            mapped = mmap.mmap(file.fileno(), 8)
            mapped[:8] = struct.pack("<q", int(seconds * 1000))

    def resident_kib(self):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        return 0

    def processor_seconds(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def stop(self):
        await self.channel.close()
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(25)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    async def create(self, key, caller="shop", timeout=30, labels=None):
        request = pb.CreatePurchaseRequest(idempotency_key=key, account="main", labels=labels or {})
        order = request.devdraft.stablecoin
        order.source_currency, order.source_network = "usdc", "ethereum"
        order.destination_currency, order.destination_network = "eurc", "base"
        order.destination_address, order.amount = "0x" + "0" * 39 + "1", "100.00"
        return await self.stub.CreatePurchase(request, metadata=token(caller), timeout=timeout)

    async def create_pull(self, key, timeout=10):
        request = pb.CreatePurchaseRequest(idempotency_key=key, account="main")
        order = request.phygitals
        order.claw_id, order.amount, order.currency, order.chain = "CLaw" + "1" * 39, 1, "usdc", "solana"
        order.txs.append("AQIDBAUGBwg=")
        return await self.stub.CreatePurchase(request, metadata=token("shop"), timeout=timeout)


def token(caller):
    return (("authorization", f"Bearer {caller}"),)


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def quantile(values, part):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


UNLIMITED = 'requests_per_minute = 0\ncreates_per_minute = 0\nschedule = [{ every = "%s" }]'


async def body_attack(binaries):
    """1,000 streams of each of 4 connections announce 262,000 bytes and leave the last one out."""
    from h2.config import H2Configuration
    from h2.connection import H2Connection

    server = await Server(binaries, free_port()).start()
    before = server.resident_kib()
    peak = before

    async def attack():
        nonlocal peak
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        peer = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        peer.initiate_connection()
        left = {}
        until = time.monotonic() + 25

        async def flush():
            writer.write(peer.data_to_send())
            await writer.drain()

        def pump():
            for stream, rest in list(left.items()):
                while rest:
                    window = min(peer.local_flow_control_window(stream), peer.max_outbound_frame_size)
                    if window <= 0:
                        break
                    part = rest[:window]
                    peer.send_data(stream, part)
                    rest = rest[len(part):]
                    left[stream] = rest
                if not rest:
                    del left[stream]

        frame = b"\0" + struct.pack(">I", 262_000) + b"\x0a" * 261_999
        opened = 0
        with contextlib.suppress(Exception):
            await flush()
            while time.monotonic() < until:
                limit = peer.remote_settings.max_concurrent_streams
                while opened < 1000 and peer.open_outbound_streams < min(limit, 1000):
                    stream = peer.get_next_available_stream_id()
                    peer.send_headers(stream, [
                        (b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"localhost"),
                        (b":path", b"/tillwatch.v1.PurchaseService/GetStatus"),
                        (b"content-type", b"application/grpc"), (b"te", b"trailers"),
                    ])
                    left[stream] = frame
                    opened += 1
                pump()
                await flush()
                with contextlib.suppress(asyncio.TimeoutError):
                    data = await asyncio.wait_for(reader.read(65536), 0.1)
                    if not data:
                        break
                    for event in peer.receive_data(data):
                        gone = getattr(event, "stream_id", None)
                        if type(event).__name__ in ("StreamReset", "StreamEnded"):
                            left.pop(gone, None)
                peak = max(peak, server.resident_kib())
        return opened

    opened = await asyncio.gather(*(attack() for _ in range(4)))
    await server.stop()
    return {"streams": opened, "before_kib": before, "peak_kib": peak,
            "more_mib": round((peak - before) / 1024, 1)}


def clone(path, count, label):
    """Adds `count` copies of the first purchase to the journal at `path`, each with a label."""
    store = sqlite3.connect(path)
    store.execute("PRAGMA synchronous = OFF")
    columns = [row[1] for row in store.execute("PRAGMA table_info(purchase)")]
    row = dict(zip(columns, store.execute("SELECT * FROM purchase LIMIT 1").fetchone()))
    log = [item[1] for item in store.execute("PRAGMA table_info(transition_log)")]
    steps = [dict(zip(log, step)) for step in store.execute(
        "SELECT * FROM transition_log WHERE purchase = ? ORDER BY revision", (row["id"],))]
    position = store.execute("SELECT max(position) FROM transition_log").fetchone()[0]
    put = f"INSERT INTO purchase ({','.join(columns)}) VALUES ({','.join('?' * len(columns))})"
    put_step = f"INSERT INTO transition_log ({','.join(log)}) VALUES ({','.join('?' * len(log))})"
    first = int.from_bytes(row["id"], "big")
    for number in range(1, count + 1):
        copy = dict(row)
        copy["id"] = (first + (number << 20)).to_bytes(16, "big")
        copy["key"] = f"clone-{number}"
        copy["labels"] = json.dumps({"order": f"o-{number}", "batch": label})
        copy["create_time"] = row["create_time"] - number
        if "reference" in copy and copy["reference"]:
            copy["reference"] = copy["reference"].replace(row_reference(row), f"txn_c{number:025d}")
        store.execute(put, list(copy.values()))
        for step in steps:
            position += 1
            told = dict(step) | {"position": position, "purchase": copy["id"]}
            told["status"] = step["status"].replace(row_reference(row), f"txn_c{number:025d}")
            store.execute(put_step, list(told.values()))
    store.commit()
    store.close()


def row_reference(row):
    text = row["reference"]
    start = text.index("txn_")
    return text[start:start + 30]


async def label_lists(binaries, base=None, count=300_000):
    """A point read's time while 16 lists by a label that nothing has run over `count` purchases."""
    provider = Provider()
    port = await provider.start()
    ended = 'after_terminal = [{ every = "1d" }]\nhorizon = "30d"\n'
    server = await Server(binaries, port, polling=UNLIMITED % "1h" + "\n" + ended).start()
    first = await server.create("first")
    await server.stop()
    if base:
        pass
    clone(server.folder / "tillwatch.db", count, "b")
    began = time.monotonic()
    await server.start()
    opened = time.monotonic() - began
    mine = await server.create("mine", caller="other")
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(4)]
    lists = [rpc.PurchaseServiceStub(channel) for channel in channels]
    counted = {"lists": 0, "refused": 0}

    async def read(seconds):
        until, times = time.monotonic() + seconds, []
        while time.monotonic() < until:
            began = time.monotonic()
            await server.stub.GetStatus(
                pb.GetStatusRequest(purchase_id=mine.purchase.id), metadata=token("other"), timeout=120)
            times.append(time.monotonic() - began)
            await asyncio.sleep(0.01)
        return times

    stop = asyncio.Event()

    async def lister(number):
        page = ""
        while not stop.is_set():
            request = pb.ListPurchasesRequest(page_size=1, page_token=page)
            request.filter.labels["batch"] = "nothing has it"
            try:
                answer = await lists[number % 4].ListPurchases(request, metadata=token("shop"), timeout=120)
                page = answer.next_page_token
                counted["lists"] += 1
            except grpc.RpcError:
                counted["refused"] += 1
                await asyncio.sleep(0.05)

    quiet = await read(5)
    runners = [asyncio.create_task(lister(number)) for number in range(16)]
    await asyncio.sleep(1)
    busy = await read(15)
    stop.set()
    for runner in runners:
        runner.cancel()
    await server.stop()
    del first
    return {
        "purchases": count, "start_seconds": round(opened, 1), **counted,
        "quiet_p99_ms": round(quantile(quiet, 0.99) * 1000, 1),
        "busy_p99_ms": round(quantile(busy, 0.99) * 1000, 1), "busy_reads": len(busy),
        "ratio": round(quantile(busy, 0.99) / quantile(quiet, 0.99), 1),
    }


async def burst(server, prefix, count):
    """Creates a second over `count` creates, 64 in flight, and the number that failed."""
    turns, failed = asyncio.Semaphore(64), 0

    async def one(number):
        nonlocal failed
        async with turns:
            try:
                await server.create(f"{prefix}-{number}", timeout=60)
            except grpc.RpcError:
                failed += 1

    began = time.monotonic()
    await asyncio.gather(*(one(number) for number in range(count)))
    return count / (time.monotonic() - began), failed


async def foreign_reader(binaries):
    """Creates a second while another process holds a snapshot and the log has passed 64 MiB."""
    provider = Provider()
    port = await provider.start()
    server = await Server(binaries, port, polling=UNLIMITED % "1h").start()
    without = [(await burst(server, f"w{number}", 1280))[0] for number in range(3)]
    path = server.folder / "tillwatch.db"
    holder = subprocess.Popen(
        [sys.executable, "-c",
         "import sqlite3,sys,time\ns=sqlite3.connect(sys.argv[1])\ns.execute('BEGIN')\n"
         "s.execute('SELECT count(*) FROM sqlite_master').fetchone()\ntime.sleep(600)", str(path)])
    log = pathlib.Path(f"{path}-wal")
    number = 0
    while log.stat().st_size < 66 << 20 and number < 40:
        await burst(server, f"fill{number}", 640)
        number += 1
    rates, failures = [], 0
    for number in range(3):
        rate, failed = await burst(server, f"r{number}", 1280)
        rates.append(rate)
        failures += failed
    size = log.stat().st_size >> 20
    holder.kill()
    holder.wait()
    await server.stop()
    return {"without": round(statistics.median(without)), "with": round(statistics.median(rates)),
            "failed": failures, "log_mib": size,
            "ratio": round(statistics.median(rates) / statistics.median(without), 2)}


async def step_back(binaries, seconds=7200, limit=600):
    """Polls and creates in the minute before and after the wall clock is set back."""
    provider = Provider()
    port = await provider.start()
    polling = f'requests_per_minute = {limit}\nschedule = [{{ every = "2s" }}]'
    server = await Server(binaries, port, polling=polling, clock=True).start()
    for number in range(5):
        await server.create(f"open-{number}")

    async def minute(prefix):
        polls, made, refused = provider.reads.total(), 0, 0
        for number in range(30):
            try:
                await server.create(f"{prefix}-{number}", timeout=5)
                made += 1
            except grpc.RpcError:
                refused += 1
            await asyncio.sleep(2)
        return {"polls": provider.reads.total() - polls, "made": made, "refused": refused}

    before = await minute("before")
    server.step(-seconds)
    after = await minute("after")
    await server.stop()
    await server.start()
    restarted = await minute("restarted")
    await server.stop()
    return {"before": before, "after": after, "restarted": restarted}


async def refused_create(binaries):
    """One Phygitals purchase's polls before and after a second create within the minute is refused."""
    provider = Provider()
    provider.hold_seconds = 0.1
    port = await provider.start()
    server = await Server(binaries, port, provider="phygitals").start()
    await server.create_pull("one")
    await asyncio.sleep(2)

    async def twenty():
        polls = provider.reads.total()
        await asyncio.sleep(20)
        return provider.reads.total() - polls

    before = await twenty()
    try:
        await server.create_pull("two")
        refused = False
    except grpc.RpcError as error:
        refused = error.details()
    after = await twenty()
    await server.stop()
    return {"polls_before": before, "refused": refused, "polls_after": after}


async def one_bad(binaries):
    """Polls of five good purchases beside one that answers the same trouble for ever."""
    found = {}
    troubles = {
        "none": None,
        "401": (401, "", {"statusCode": 401, "message": "Unauthorized"}),
        "403": (403, "", {"statusCode": 403, "message": "Forbidden"}),
        "429": (429, "", {"statusCode": 429, "message": "Too Many Requests"}),
        "429 Retry-After 5": (429, "retry-after: 5\r\n", {"statusCode": 429, "message": "Too Many"}),
        "404": (404, "", {"statusCode": 404, "message": "Payment intent not found"}),
        "500": (500, "", {"statusCode": 500, "message": "Internal"}),
        "garbage": (200, "", b"<html>"),
    }
    for name, trouble in troubles.items():
        provider = Provider()
        port = await provider.start()
        server = await Server(binaries, port, polling=UNLIMITED % "500ms").start()
        for number in range(6):
            await server.create(f"p-{number}")
        bad = sorted(provider.reads)[0] if provider.reads else "txn_" + "1".zfill(26)
        if trouble:
            provider.answers[bad] = trouble
        await asyncio.sleep(40)
        seen = dict(provider.reads)
        await asyncio.sleep(20)
        good = sum(count - seen.get(key, 0) for key, count in provider.reads.items() if key != bad)
        found[name] = {"good": good, "bad": provider.reads[bad] - seen.get(bad, 0)}
        await server.stop()
    return found


async def long_polls(binaries, calls=20_000):
    """Bytes kept for each long poll that has ended, beside plain reads."""
    provider = Provider()
    port = await provider.start()
    server = await Server(binaries, port, polling=UNLIMITED % "1h").start()
    made = (await server.create("one")).purchase

    async def run(request):
        turns = asyncio.Semaphore(64)

        async def one():
            async with turns:
                await server.stub.GetStatus(request, metadata=token("shop"), timeout=30)

        for _ in range(calls // 2000):
            await asyncio.gather(*(one() for _ in range(2000)))

    plain = pb.GetStatusRequest(purchase_id=made.id)
    waits = pb.GetStatusRequest(purchase_id=made.id, after_revision=made.status.revision)
    waits.max_wait.FromMilliseconds(3)
    kept, spent = {}, {}
    await run(plain)
    await run(waits)
    for name, request in (("plain", plain), ("long_poll", waits)):
        before, processor = server.resident_kib(), server.processor_seconds()
        await run(request)
        spent[name] = round((server.processor_seconds() - processor) * 1e6 / calls)
        kept[name] = round((server.resident_kib() - before) * 1024 / calls, 1)
    await server.stop()
    return {"calls": calls, "bytes_kept_per_call": kept, "processor_us_per_call": spent}


async def feeds(binaries, count=8_000):
    """Commits a second beside the feeds of a caller that has no purchases."""
    provider = Provider()
    port = await provider.start()
    extra = f"[limits]\nfeeds_per_caller = {count}\n"
    try:
        server = await Server(binaries, port, polling=UNLIMITED % "1h", extra=extra).start()
    except RuntimeError:
        server = await Server(binaries, port, polling=UNLIMITED % "1h").start()
    made = [(await server.create(f"p-{number}")).purchase for number in range(800)]
    words = ["AWAITING_FUNDS", "IN_REVIEW"]
    references = [purchase.status.reference.devdraft.transaction_id for purchase in made]
    # Revisions of one purchase are few, so each has its word changed but now and then.
    turns = iter(range(1_000_000))

    async def commits(seconds):
        cpu, began, done = server.processor_seconds(), time.monotonic(), 0

        async def worker():
            nonlocal done
            while time.monotonic() - began < seconds:
                turn = next(turns)
                place = turn % len(made)
                provider.words[references[place]] = words[turn // len(made) % 2]
                request = pb.RefreshStatusRequest(purchase_id=made[place].id)
                await server.stub.RefreshStatus(request, metadata=token("shop"), timeout=30)
                done += 1

        await asyncio.gather(*(worker() for _ in range(16)))
        span = time.monotonic() - began
        return done / span, (server.processor_seconds() - cpu) / max(done, 1) * 1000

    without, cpu_without = await commits(5)
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=[
        ("grpc.use_local_subchannel_pool", 1)]) for _ in range(9)]
    streams = []
    for number in range(count):
        stub = rpc.PurchaseServiceStub(channels[number % 9])
        request = pb.WatchPurchasesRequest()
        request.heartbeat_interval.seconds = 120
        streams.append(stub.WatchPurchases(request, metadata=token("other")))
    first = await asyncio.gather(*(stream.read() for stream in streams), return_exceptions=True)
    opened = sum(not isinstance(one, Exception) for one in first)
    beside, cpu_beside = await commits(5)
    for stream in streams:
        stream.cancel()
    await server.stop()
    return {"feeds": opened, "commits_without": round(without), "commits_beside": round(beside),
            "ratio": round(beside / without, 2), "cpu_ms_without": round(cpu_without, 3),
            "cpu_ms_beside": round(cpu_beside, 3), "cpu_ratio": round(cpu_without / cpu_beside, 2)}


MEASUREMENTS = {
    "body_attack": body_attack, "label_lists": label_lists, "foreign_reader": foreign_reader,
    "step_back": step_back, "refused_create": refused_create, "one_bad": one_bad,
    "long_polls": long_polls, "feeds": feeds,
}


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--binaries", default=str(ROOT / "target/release"))
    arguments.add_argument("names", nargs="*", choices=[*MEASUREMENTS, []])
    arguments = arguments.parse_args()
    for name in arguments.names or MEASUREMENTS:
        try:
            figures = asyncio.run(MEASUREMENTS[name](arguments.binaries))
        except Exception as error:  # a measurement that fails must not stop the others
            figures = {"failed": repr(error)[:300]}
        print(json.dumps({"measurement": name, **figures}), flush=True)


if __name__ == "__main__":
    main()
