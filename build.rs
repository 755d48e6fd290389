//! Compiles the contract in `proto/` to Rust and to a descriptor set, without `protoc`.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

/// The entry points of the contract: our service, and the health protocol as published by gRPC.
const FILES: [&str; 2] = [
    "tillwatch/v1/purchase_service.proto",
    "grpc/health/v1/health.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let described = protox::Compiler::new(["proto"])?
        .include_imports(true)
        .include_source_info(true)
        .open_files(FILES)?
        .file_descriptor_set();
    let mut shipped = described.clone();
    for file in &mut shipped.file {
        // Comments belong in the generated documentation, not in every running server.
        file.source_code_info = None;
    }
    fs::write(out.join("descriptor.bin"), shipped.encode_to_vec())?;
    tonic_prost_build::configure()
        .codec_path("crate::codec::SmallCodec")
        .compile_fds(described)?;
    Ok(())
}
