//! A defect in a handler or a stream, over real HTTP/2: its caller gets INTERNAL, and nobody is harmed.

use async_trait::async_trait;
use tillwatch_proto::v1::{
    GetStatusRequest, ListPurchasesRequest, WatchStatusRequest, WatchStatusResponse,
    get_status_request::Key, purchase_service_client::PurchaseServiceClient,
    watch_status_response::Event,
};
use tonic::{Code, Request, Streaming, transport::Channel};
use tonic_types::StatusExt as _;

use super::*;
use crate::{
    journal::{
        Committed, Filter, Listed, Place, Position, Published, Retirement, Write, Written,
        memory::MemoryJournal,
    },
    listener::PanicLayer,
    purchase::Reference,
};

/// The purchase whose record panics, and the purchase whose transitions panic.
const UNREADABLE: u128 = 666;
const UNTOLD: u128 = 1;

/// A journal that panics about two purchases.
#[derive(Debug)]
struct Defective(MemoryJournal);

#[async_trait]
impl Journal for Defective {
    async fn record(&self, purchase: PurchaseId) -> Result<Option<Record>, JournalError> {
        assert_ne!(purchase, PurchaseId::from_u128(UNREADABLE), "canary");
        self.0.record(purchase).await
    }

    async fn transitions(
        &self,
        purchase: PurchaseId,
        after: Revision,
        limit: usize,
    ) -> Result<Vec<Transition>, JournalError> {
        assert_ne!(purchase, PurchaseId::from_u128(UNTOLD), "canary");
        self.0.transitions(purchase, after, limit).await
    }

    async fn write(&self, write: Write) -> Result<Written, JournalError> {
        self.0.write(write).await
    }

    async fn record_by_key(
        &self,
        caller: &CallerName,
        key: &str,
    ) -> Result<Option<Record>, JournalError> {
        self.0.record_by_key(caller, key).await
    }

    async fn purchase_by_reference(
        &self,
        account: &AccountName,
        reference: &Reference,
    ) -> Result<Option<PurchaseId>, JournalError> {
        self.0.purchase_by_reference(account, reference).await
    }

    async fn list(
        &self,
        filter: &Filter,
        after: Option<Place>,
        limit: usize,
    ) -> Result<Listed, JournalError> {
        self.0.list(filter, after, limit).await
    }

    async fn tail(
        &self,
        caller: Option<&CallerName>,
        after: Position,
        limit: usize,
    ) -> Result<(Vec<Arc<Committed>>, Position), JournalError> {
        self.0.tail(caller, after, limit).await
    }

    async fn open_records(
        &self,
        after: Option<PurchaseId>,
        limit: usize,
    ) -> Result<Vec<Record>, JournalError> {
        self.0.open_records(after, limit).await
    }

    async fn get(&self, key: &str) -> Result<Option<String>, JournalError> {
        self.0.get(key).await
    }

    async fn retire(&self, retirement: Retirement) -> Result<Option<usize>, JournalError> {
        self.0.retire(retirement).await
    }

    fn epoch(&self) -> &str {
        self.0.epoch()
    }

    fn published(&self) -> &Published {
        self.0.published()
    }

    async fn close(&self) {
        self.0.close().await;
    }
}

fn watch(purchase: u128, after_revision: Option<u32>) -> Request<WatchStatusRequest> {
    Request::new(WatchStatusRequest {
        purchase_id: PurchaseId::from_u128(purchase).to_string(),
        after_revision,
        until: 2,
        ..WatchStatusRequest::default()
    })
}

async fn event(stream: &mut Streaming<WatchStatusResponse>) -> Event {
    let message = stream.message().await.unwrap().unwrap();
    message.event.unwrap()
}

/// A house over the defective journal with an open purchase, and a connection to it.
async fn served() -> (House, Channel) {
    let journal = MemoryJournal::new("e");
    let clock = Clock::system();
    begun(&journal, UNTOLD, Status::pending(clock.now())).await;
    let grant = Grant {
        name: CallerName::new("shop"),
        scopes: [Scope::Read].into(),
        accounts: None,
        limits: CallerLimits::default(),
    };
    let journal: Arc<dyn Journal> = Arc::new(Defective(journal));
    let house = House::open(Parts {
        budgets: Arc::new(AloneBudgets::new(&journal, &clock)),
        board: Arc::new(AloneBoard),
        clock,
        journal,
        ownership: Arc::new(Alone::default()),
        keyring: Keyring::parse(&Keyring::new_file("k", [7; 32])).unwrap(),
        accounts: Accounts::default(),
        callers: Directory::new(Callers::default().with(Caller::new(grant), &[], true)),
        limits: grpc::StreamBounds {
            streams: 3,
            stream_age: None,
        },
        retention: DAY,
        audit: Audit::default(),
    });
    let house = house.await.unwrap();
    let listener = Listener::tcp("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.address());
    let incoming = listener.incoming(1, tokio_util::sync::CancellationToken::new());
    let router = listener::server()
        .layer(PanicLayer)
        .layer(grpc::DeadlineLayer)
        .add_service(house.service());
    tokio::spawn(router.serve_with_incoming(incoming));
    let endpoint = tonic::transport::Endpoint::from_shared(url).unwrap();
    (house, endpoint.connect().await.unwrap())
}

#[tokio::test]
async fn a_defect_in_a_handler_or_a_stream_is_internal_and_harms_nobody_else() {
    let (house, channel) = served().await;
    let mut client = PurchaseServiceClient::new(channel);
    // All calls share one connection: a neighbour that was there before goes on.
    let neighbour = client.watch_status(watch(UNTOLD, None)).await.unwrap();
    let mut neighbour = neighbour.into_inner();
    assert!(matches!(event(&mut neighbour).await, Event::Snapshot(_)));
    assert!(matches!(event(&mut neighbour).await, Event::Heartbeat(_)));
    let get = GetStatusRequest {
        key: Some(Key::PurchaseId(
            PurchaseId::from_u128(UNREADABLE).to_string(),
        )),
        ..GetStatusRequest::default()
    };
    // A stream's first poll reads the transitions that it has missed, and this one breaks there.
    let mut broken = async || {
        let stream = client.watch_status(watch(UNTOLD, Some(0))).await.unwrap();
        stream.into_inner().message().await.map(drop)
    };
    let in_streams = [broken().await, broken().await, broken().await];
    let in_handlers = [
        client.get_status(get).await.map(drop),
        client.watch_status(watch(UNREADABLE, None)).await.map(drop),
    ];
    for told in in_streams.into_iter().chain(in_handlers) {
        let status = told.unwrap_err();
        assert_eq!(status.code(), Code::Internal, "{status:?}");
        let info = status.get_details_error_info().unwrap();
        let named = (info.domain.as_str(), info.reason.as_str());
        assert_eq!(named, ("tillwatch", "INTERNAL"));
        assert!(!format!("{status:?}").contains("canary"), "{status:?}");
    }
    // Places were given back, the connection serves on, and the neighbour hears of new commits.
    let list = client.list_purchases(ListPurchasesRequest::default()).await;
    assert_eq!(list.unwrap().into_inner().purchases.len(), 1);
    assert_eq!(house.rooms.feed.streams(), 1);
    let id = PurchaseId::from_u128(UNTOLD);
    let newest = house.rooms.journal.record(id).await.unwrap().unwrap();
    let newest = newest.purchase.status;
    let status = Status {
        revision: newest.revision.next(),
        state: State::Created,
        ..newest.as_ref().clone()
    };
    let append = testing::append(id, testing::step(&newest, status, Cause::Create));
    let written = house.rooms.journal.write(append).await.unwrap();
    assert_eq!(written, Written::Done);
    assert!(matches!(event(&mut neighbour).await, Event::Transition(_)));
}
