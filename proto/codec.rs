//! The codec of all generated code: protobuf with small initial buffers.
//!
//! tonic's default codec reserves 8 KiB per open response: most of the memory of an idle stream.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// Bytes reserved when a message is encoded or decoded; a status is a few hundred bytes long.
const BUFFER_BYTES: usize = 256;
/// Bytes of ready messages after which tonic hands a frame to the transport (tonic's own default).
const YIELD_BYTES: usize = 32 * 1024;

/// Protobuf with buffers of 256 bytes. Made by generated code only.
#[derive(Debug, Clone, Copy)]
pub struct SmallCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::new(BUFFER_BYTES, YIELD_BYTES))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(BufferSettings::new(BUFFER_BYTES, YIELD_BYTES))
    }
}
