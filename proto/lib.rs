//! The Tillwatch contract: messages, clients and servers generated from `proto/`, and their descriptor set.
//!
//! Nothing here decides anything; the rules of each field stand in the `.proto` comments.

pub mod codec;

/// Package `tillwatch.v1`: the purchase service.
#[allow(
    missing_docs,
    clippy::all,
    reason = "generated from the contract, whose comments are its documentation"
)]
pub mod v1 {
    tonic::include_proto!("tillwatch.v1");
}

/// Package `grpc.health.v1`: the health protocol that gRPC publishes, including `List`.
#[allow(
    missing_docs,
    clippy::all,
    reason = "generated from the contract, whose comments are its documentation"
)]
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// The encoded `FileDescriptorSet` of both packages and their imports, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));

/// The fully qualified name of the purchase service, as health checks and reflection know it.
pub const PURCHASE_SERVICE: &str = "tillwatch.v1.PurchaseService";
