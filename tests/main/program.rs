//! The server as an orchestrator runs it: the real program, its output, its signals, its exit codes.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use flowmap::api::Client;

use crate::real::Repository;
use crate::support::{request, within};

/// Ends the program where a test fails before it does.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // Fails where it has ended, as it should have.
        let _ = self.0.kill();
    }
}

fn serve(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flowmap"));
    command.args(["serve", "--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0"]).args(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Where it says that it serves gRPC.
fn address(program: &mut Program) -> String {
    let mut line = String::new();
    BufReader::new(program.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.strip_prefix("serving gRPC on ").and_then(|rest| rest.split_once(", ")).map(|(it, _)| it);
    address.unwrap_or_else(|| panic!("'{line}'")).to_owned()
}

#[tokio::test]
async fn it_serves_a_folder_until_it_is_asked_to_stop() {
    let repository = Repository::new();
    let root = repository.root().display().to_string();
    let mut program = Program(serve(&["--models", &root, "--threads", "1"]).spawn().unwrap());
    let (mut program, address) = tokio::task::spawn_blocking(move || {
        let address = address(&mut program);
        (program, address)
    })
    .await
    .unwrap();
    let mut client = within(Client::connect(&address)).await.unwrap();
    let mut generation = within(client.generate(request(1, 1))).await.unwrap();
    assert_eq!(generation.accepted().model, "small@1", "the folder's only model is the default");
    assert!(within(generation.next()).await.unwrap().is_some());
    assert!(within(generation.next()).await.unwrap().is_none());
    let id = program.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    let ended = tokio::task::spawn_blocking(move || program.0.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0));
}

#[test]
fn a_wrong_configuration_is_told_whole_and_has_its_own_exit_code() {
    let output = serve(&["--set", "scheduler.max_rows=0", "--set", "limits.max_steps=many"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("scheduler.max_rows = 0") && told.contains("limits.max_steps = \"many\""), "{told}");
}
