//! `flowmap serve`: answers requests for images over gRPC.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::app::App;
use crate::config::{Config, Layers, Override, environment};
use crate::error::{Error, Result};
use crate::shutdown::{Ending, Stops};
use crate::telemetry;

/// Serve models over gRPC.
///
/// Without arguments the embedded models are served on 127.0.0.1:50051, metrics and probes on 127.0.0.1:9090.
/// SIGTERM or SIGINT lets open requests finish; a second one does not wait for them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flowmap serve
  flowmap serve --models ./models --device cuda:0
  flowmap serve --config /etc/flowmap.toml --grpc-address 0.0.0.0:50051
  FLOWMAP__SCHEDULER__MAX_ROWS=128 flowmap serve --set limits.max_steps=64

`flowmap config` lists every setting, its value and where the value comes from.")]
pub struct Args {
    #[command(flatten)]
    settings: Settings,
}

/// The flags that set what `flowmap config` shows.
#[derive(Debug, clap::Args)]
pub(super) struct Settings {
    /// Read settings from this TOML file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Serve gRPC here [server.grpc_address].
    #[arg(long, value_name = "ADDR:PORT")]
    grpc_address: Option<SocketAddr>,
    /// Serve metrics and probes here [server.http_address].
    #[arg(long, value_name = "ADDR:PORT")]
    http_address: Option<SocketAddr>,
    /// Serve the models of this folder instead of the embedded ones [models.repository].
    #[arg(long, value_name = "DIR")]
    models: Option<String>,
    /// The model that answers requests without a name [models.default].
    #[arg(long, value_name = "NAME[@VERSION]")]
    default_model: Option<String>,
    /// Compute here: cpu or cuda:N [engine.device].
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Compute with this many threads, 0 for all [engine.threads].
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Log as text or json [log.format].
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Log this, for example debug or info,flowmap::scheduler=debug [log.filter].
    #[arg(long, value_name = "DIRECTIVES")]
    log_filter: Option<String>,
    /// Set any other setting; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
}

impl Settings {
    /// All layers of the configuration, these flags on top.
    ///
    /// # Errors
    /// [`Error::Config`] when the file cannot be read.
    pub(super) fn layers(&self) -> Result<Layers> {
        Layers::load(self.config.as_deref(), environment(), self.overrides())
    }

    fn overrides(&self) -> Vec<Override> {
        let text = |value: &Option<SocketAddr>| value.map(|address| address.to_string());
        let flags = [
            ("server.grpc_address", "--grpc-address", text(&self.grpc_address)),
            ("server.http_address", "--http-address", text(&self.http_address)),
            ("models.repository", "--models", self.models.clone()),
            ("models.default", "--default-model", self.default_model.clone()),
            ("engine.device", "--device", self.device.clone()),
            ("engine.threads", "--threads", self.threads.map(|n| n.to_string())),
            ("log.format", "--log-format", self.log_format.clone()),
            ("log.filter", "--log-filter", self.log_filter.clone()),
        ];
        let named = flags.into_iter().filter_map(|(key, flag, value)| Some((key.to_owned(), flag, value?)));
        let set = self.set.iter().map(|(key, value)| (key.clone(), "--set", value.clone()));
        named.chain(set).map(|(key, flag, value)| Override { key, value, flag: flag.into() }).collect()
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("is not KEY=VALUE")?;
    Ok((key.trim().into(), value.into()))
}

/// Runs the command.
///
/// # Errors
/// [`Error::Config`] for a wrong configuration, [`Error::Unavailable`] when the server could not go on or was stopped
/// in a hurry.
pub fn main(args: &Args) -> Result<()> {
    let config = Config::read(&args.settings.layers()?)?;
    telemetry::init(&config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Error::Unavailable(format!("cannot start the runtime: {e}")))?;
    let ended = runtime.block_on(serve(&config));
    // What is left by now was cut off on purpose, and must not be waited for.
    runtime.shutdown_background();
    ended
}

async fn serve(config: &Config) -> Result<()> {
    let mut stops = Stops::signals()?;
    let app = tokio::select! {
        app = App::build(config) => app?,
        () = stops.next() => return Ok(()),
    };
    let (grpc, http) = (app.grpc_address(), app.http_address());
    super::print(&format!("serving gRPC on {grpc}, metrics and probes on http://{http}\n"))?;
    match app.serve(stops).await? {
        Ending::Finished => tracing::info!("stopped; every request was finished"),
        Ending::CutOff => tracing::warn!("stopped; the grace period ended before every request was finished"),
        Ending::Forced => return Err(Error::Unavailable("stopped at once by a second signal".into())),
    }
    Ok(())
}
