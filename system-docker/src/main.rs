//! The one binary; all of it is in the library.

fn main() -> std::process::ExitCode {
    system_docker::main()
}
