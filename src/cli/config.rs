//! `flowmap config`: the settings in force and where each comes from.

use super::serve::Settings;
use crate::config::{Config, DEFAULTS};
use crate::error::Result;

/// Show the settings that `flowmap serve` would use with the same arguments.
///
/// Each value comes with its source: default, file, environment variable or flag. Problems are listed all at once.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flowmap config
  flowmap config --config /etc/flowmap.toml --json
  flowmap config --reference > flowmap.toml")]
pub struct Args {
    #[command(flatten)]
    settings: Settings,
    /// Print as JSON: key → value and source.
    #[arg(long)]
    json: bool,
    /// Print the commented file of all defaults instead.
    #[arg(long, conflicts_with = "json")]
    reference: bool,
}

/// Runs the command.
///
/// # Errors
/// [`Error::Config`](crate::error::Error::Config) with every problem.
pub fn main(args: &Args) -> Result<()> {
    if args.reference {
        return super::print(DEFAULTS);
    }
    let layers = args.settings.layers()?;
    Config::read(&layers)?;
    super::print(&if args.json { format!("{:#}\n", layers.to_json()) } else { layers.to_toml() })
}
