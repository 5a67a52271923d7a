//! The commands, one file each.

pub mod check;
pub mod compare;
pub mod demo;
pub mod prune;
pub mod replay;
pub mod run;
pub mod simulate;
pub mod top;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// The exit codes.
mod exit_code {
    use super::compare::Verdict;
    use crate::finding::Level;

    /// Something went wrong while it ran.
    pub(super) const FAILURE: u8 = 1;

    /// Those of `ixflow check`, which monitoring systems understand (Nagios plugins: OK, WARNING,
    /// CRITICAL).
    pub(super) const fn of(level: Level) -> u8 {
        match level {
            Level::Ok => 0,
            Level::Warn => 1,
            Level::Fail => 2,
        }
    }

    /// Those of `ixflow compare`, which are diff(1)'s.
    pub(super) const fn of_comparison(verdict: Verdict) -> u8 {
        match verdict {
            Verdict::Equal => 0,
            Verdict::Different => 1,
            Verdict::Unreadable => 2,
        }
    }
}

#[derive(Parser)]
#[command(version, about, propagate_version = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Collects sFlow and keeps the RRD files, in the foreground.
    Run(run::Arguments),
    /// Looks at settings, portal, RRD files and sockets, and says what is wrong and what mends it.
    Check(check::Arguments),
    /// Shows a running ixflow's pairs, members, agents, losses and findings in the terminal.
    Top(top::Arguments),
    /// Takes captures through the same path, into RRD files or a table.
    Replay(replay::Arguments),
    /// Removes files of VLIs that the portal no longer knows.
    Prune(prune::Arguments),
    /// Compares two RRD trees: totals and rows of each file, as a table.
    Compare(compare::Arguments),
    /// Speaks sFlow as a synthetic fabric would.
    Simulate(simulate::Arguments),
    /// Runs a day and then live traffic of a simulated exchange, and draws graphs.
    Demo(demo::Arguments),
    /// Writes the manual pages of these commands.
    #[command(hide = true)]
    Man {
        /// Where to
        directory: PathBuf,
    },
}

/// Runs the command of the command line.
pub fn main() -> ExitCode {
    let result = match CommandLine::parse().command {
        Command::Check(arguments) => {
            return match check::run(&arguments) {
                Ok(level) => ExitCode::from(exit_code::of(level)),
                Err(error) => {
                    eprintln!("ixflow: cannot print: {error}");
                    ExitCode::from(exit_code::FAILURE)
                }
            };
        }
        Command::Compare(arguments) => {
            return match compare::run(&arguments) {
                Ok(verdict) => ExitCode::from(exit_code::of_comparison(verdict)),
                Err(error) => {
                    eprintln!("ixflow: {error}");
                    ExitCode::from(exit_code::of_comparison(compare::Verdict::Unreadable))
                }
            };
        }
        Command::Run(arguments) => run::run(&arguments).map_err(|error| error.to_string()),
        Command::Top(arguments) => top::run(&arguments).map_err(|error| error.to_string()),
        Command::Replay(arguments) => replay::run(&arguments).map_err(|error| error.to_string()),
        Command::Prune(arguments) => prune::run(&arguments).map_err(|error| error.to_string()),
        Command::Simulate(arguments) => {
            simulate::run(&arguments).map_err(|error| error.to_string())
        }
        Command::Demo(arguments) => demo::run(&arguments).map_err(|error| error.to_string()),
        Command::Man { directory } => clap_mangen::generate_to(CommandLine::command(), &directory)
            .map_err(|error| format!("{}: {error}", directory.display())),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ixflow: {error}");
            ExitCode::from(exit_code::FAILURE)
        }
    }
}

/// Sends log lines to stderr; `IXFLOW_LOG` selects them as `RUST_LOG` does elsewhere.
fn log_to_stderr(debug: bool) {
    let default = if debug { "ixflow=debug,warn" } else { "ixflow=info,warn" };
    let filter = EnvFilter::try_from_env("IXFLOW_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    // A second call, as from a test, changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .try_init();
}
