//! The command line: one file per subcommand.

pub mod bench;
pub mod compare;
pub mod config;
pub mod eval;
pub mod generate;
pub mod inspect;
pub mod reproduce;
pub mod serve;
pub mod simulate;
pub mod study;
pub mod train;
pub mod tune_grid;

mod receipts;

use std::io::{ErrorKind, Write};

use clap::{Parser, Subcommand};

use crate::error::{Error, Result};

/// Exit code for arguments or a configuration that can be seen to be wrong from here. clap uses it as well.
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
    Generate(Box<generate::Args>),
    Reproduce(reproduce::Args),
    Inspect(inspect::Args),
    Config(config::Args),
    Train(train::Args),
    Eval(eval::Args),
    Study(study::Args),
    TuneGrid(tune_grid::Args),
    Compare(compare::Args),
    Simulate(simulate::Args),
    Bench(bench::Args),
}

impl Cli {
    /// Runs the command that was given.
    ///
    /// # Errors
    /// Whatever stopped it.
    pub fn run(self) -> Result<()> {
        match self.command {
            Command::Serve(args) => serve::main(&args),
            Command::Generate(args) => generate::main(&args),
            Command::Reproduce(args) => reproduce::main(&args),
            Command::Inspect(args) => inspect::main(&args),
            Command::Config(args) => config::main(&args),
            Command::Train(args) => train::main(&args),
            Command::Eval(args) => eval::main(&args),
            Command::Study(args) => study::main(&args),
            Command::TuneGrid(args) => tune_grid::main(&args),
            Command::Compare(args) => compare::main(&args),
            Command::Simulate(args) => simulate::main(&args),
            Command::Bench(args) => bench::main(&args),
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
        Error::Config(_) => USAGE,
        _ => FAILURE,
    }
}

/// `error` and its causes, a line each, for a person at a terminal.
pub fn explain(error: &Error) -> String {
    let mut text = format!("error: {}", told(error).replace('\n', "\n       "));
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

/// The error itself, with a line for each wrong field.
fn told(error: &Error) -> String {
    match error {
        Error::Invalid(violations) => {
            let lines = violations.iter().map(|v| format!("\n  {}: {}", v.field, v.description));
            lines.fold("the server refused the request:".into(), |text, line| text + &line)
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::error::Violation;

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
        let wrong = Error::Invalid(vec![Violation::new("count", "is 0"), Violation::new("steps", "is 0")]);
        assert_eq!(
            explain(&wrong),
            "error: the server refused the request:\n         count: is 0\n         steps: is 0"
        );
        assert_eq!((exit_code(&Error::Config(vec![])), exit_code(&Error::Cancelled)), (2, 1));
    }
}
