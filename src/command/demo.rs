//! `ixflow demo`: a day and then live traffic of a simulated exchange, and graphs to look at.

/// Arguments of `ixflow demo`.
#[derive(clap::Args, Debug)]
pub struct Arguments {}

/// The demo.
pub fn run(_arguments: &Arguments) -> Result<(), std::io::Error> {
    Ok(())
}
