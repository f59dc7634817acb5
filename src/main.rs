//! The program `dvcr`; see [`dvcr::cli`].

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    dvcr::cli::run()
}
