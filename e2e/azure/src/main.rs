//! The simulator's process: three ports, one state.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use azure_simulator::{Clock, Config, State, control, disks, front, serve, sts};
use clap::Parser;
use tokio::net::TcpListener;

/// A stand-in for Azure: Resource Manager and tokens, the SAS URLs of managed disks, and a control port for tests.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Where Resource Manager and the token endpoint listen (https).
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// Where the SAS URLs of managed disks listen (https).
    #[arg(long, default_value = "127.0.0.1:8446")]
    disks: SocketAddr,
    /// Where tests steer the simulator (http).
    #[arg(long, default_value = "127.0.0.1:8180")]
    control: SocketAddr,
    /// The certificate chain (PEM).
    #[arg(long, default_value = "server.pem")]
    cert: PathBuf,
    /// Its key (PEM).
    #[arg(long, default_value = "server.key")]
    key: PathBuf,
    /// How clients reach the disks' port; the default is `https://` and its address.
    #[arg(long)]
    public_disks_url: Option<String>,
    /// Where the disks' bytes lie.
    #[arg(long, default_value = "azure-state")]
    state: PathBuf,
    /// Subscription, networks, sizes, principals (YAML); without it the built-in ones.
    #[arg(long)]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into()))
        .with_writer(std::io::stderr)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("azure-simulator: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(Args::parse())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("azure-simulator: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    let config = match &args.config {
        Some(path) => Config::read(path)?,
        None => Config::default(),
    };
    let tls = serve::tls(&args.cert, &args.key)?;
    let bind = async |what: &str, address: SocketAddr| {
        TcpListener::bind(address).await.map_err(|error| format!("--{what} {address}: {error}: is another simulator running?"))
    };
    let front_port = bind("listen", args.listen).await?;
    let disks_port = bind("disks", args.disks).await?;
    let control_port = bind("control", args.control).await?;
    let public = match &args.public_disks_url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => format!("https://{}", disks_port.local_addr()?),
    };

    let clock = Clock::system();
    let store = disks::DiskStore::open(&args.state, &public, clock.clone())?;
    let sts = sts::Sts::new(&config, clock.clone())?;
    let state = State::new(config, clock, store, sts);

    // Before the word goes out: who reads it may end this process at once.
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    println!("ready https://{}", front_port.local_addr()?);
    tokio::select! {
        never = serve::serve(front_port, Some(tls.clone()), front(&state)) => match never {},
        never = serve::serve(disks_port, Some(tls), disks::router(state.clone())) => match never {},
        never = serve::serve(control_port, None, control::router(state.clone())) => match never {},
        _ = terminate.recv() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}
