//! The program `ixflow`: from the command line to a command; exit codes only.

use std::process::ExitCode;

fn main() -> ExitCode {
    ixflow::command::main()
}
