//! Installs Hawser into the sandbox that stands, as the demo does it, and nothing more.

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let done = async { system::install::all(&system::sandbox::Sandbox::open()?).await };
    match done.await {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("install: {why}");
            std::process::ExitCode::FAILURE
        }
    }
}
