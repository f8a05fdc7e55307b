//! The program `understudy`, built so that its nodes kill or stop themselves where a drill asks for it; otherwise the same.

fn main() -> std::process::ExitCode {
    understudy::cli::main()
}
