//! The command line: one file per subcommand.

pub mod config;
pub mod serve;
pub mod train;

use std::io::{ErrorKind, Write};

use clap::{Parser, Subcommand};

use crate::error::{Error, Result};

/// Exit code for what the caller of a command must mend: its arguments or its configuration. clap uses it as well.
const USAGE: u8 = 2;
/// Exit code for everything else.
const FAILURE: u8 = 1;

/// Train, distil and serve flow maps: image generators whose number of steps is chosen per request.
#[derive(Debug, Parser)]
#[command(name = "flowmap", version, max_term_width = 110, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    Config(config::Args),
    Train(train::Args),
}

impl Cli {
    /// Runs the command that was given.
    ///
    /// # Errors
    /// Whatever stopped it.
    pub fn run(self) -> Result<()> {
        match self.command {
            Command::Serve(args) => serve::main(&args),
            Command::Config(args) => config::main(&args),
            Command::Train(args) => train::main(&args),
        }
    }
}

/// Writes a command's result to standard output. A reader that has seen enough, such as `head`, is no failure.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::io("standard output", "write it", e)),
        _ => Ok(()),
    }
}

/// The process's exit code for `error`.
pub fn exit_code(error: &Error) -> u8 {
    match error {
        Error::Config(_) | Error::Invalid(_) | Error::NotFound(_) => USAGE,
        _ => FAILURE,
    }
}

/// `error` and its causes, a line each, for a person at a terminal.
pub fn explain(error: &Error) -> String {
    let mut text = format!("error: {}", error.to_string().replace('\n', "\n       "));
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let line = error.to_string();
        // Errors of files quote their cause already.
        if !text.contains(&line) {
            text += &format!("\n  because: {line}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_command_explains_itself_with_examples() {
        let command = Cli::command();
        command.clone().debug_assert();
        for sub in command.get_subcommands() {
            assert!(sub.get_about().is_some(), "{}", sub.get_name());
            assert!(
                sub.get_after_help().is_some_and(|help| help.to_string().contains("flowmap ")),
                "{}",
                sub.get_name()
            );
        }
    }

    #[test]
    fn causes_are_told_once() {
        let io = || std::io::Error::other("disk on fire");
        let error = Error::io("/models", "read it", io());
        assert_eq!(explain(&error), "error: /models: cannot read it: disk on fire");
        let error = Error::File { path: "/models".into(), problem: "is broken".into(), source: Some(io().into()) };
        assert_eq!(explain(&error), "error: /models: is broken\n  because: disk on fire");
        assert_eq!(explain(&Error::Config(vec!["a".into(), "b".into()])), "error: a\n       b");
        assert_eq!((exit_code(&Error::Config(vec![])), exit_code(&Error::Cancelled)), (2, 1));
    }
}
