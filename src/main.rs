//! The program `dvcr`; see [`dvcr::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    dvcr::cli::run()
}
