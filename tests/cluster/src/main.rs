//! A PostgreSQL server to try things on: prints the URL of an empty database, and ends with its standard
//! input, or with Ctrl-C. Nothing of it is left.
//!
//! ```sh
//! cargo run -p tillwatch-cluster
//! ```

#![allow(clippy::print_stdout, reason = "the URL is what was asked for")]

use std::io;

use tillwatch_cluster::Cluster;

fn main() -> io::Result<()> {
    let database = Cluster::shared().database();
    println!("{}", database.url());
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}
