//! A process that is given keys leaves none of its memory on a disk when it crashes.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{
    io::Read,
    net::{TcpListener, TcpStream},
    os::unix::process::ExitStatusExt,
    process::{Child, Command, Stdio},
};

/// `lcai` with the shell's limit on core dumps lifted as far as it goes, in the middle of a call to a node that never
/// answers.
fn hanging() -> (TcpStream, Child) {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", silent.local_addr().unwrap());
    let command =
        format!("ulimit -Sc hard; exec {} worker leave --rpc {url} \"$@\"", env!("CARGO_BIN_EXE_lcai"));
    let directory = tempfile::tempdir().unwrap();
    let keystore = directory.path().join("worker.json");
    let signer = alloy_signer_local::PrivateKeySigner::random();
    lcai_crypto::keystore::write_account(&keystore, &signer, "right", lcai_crypto::KdfCost::Light).unwrap();
    let child = Command::new("sh")
        .args(["-c", &command, "sh", "--keystore"])
        .arg(&keystore)
        .env("LCAI_PASSWORD", "right")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It has read its key and speaks to the node: what it does at its start is done.
    let (mut connection, _) = silent.accept().unwrap();
    assert_eq!(connection.read(&mut [0]).unwrap(), 1);
    (connection, child)
}

/// The limits on the size of core dumps, soft and hard, bytes.
fn limits(pid: u32) -> Vec<String> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    line.split_whitespace().take(2).map(str::to_owned).collect()
}

#[test]
fn a_crash_leaves_no_core_dump() {
    let (_connection, mut child) = hanging();
    assert_eq!(limits(child.id()), ["0", "0"], "and no way to raise them");
    let aborted = Command::new("kill").args(["-ABRT", &child.id().to_string()]).status().unwrap();
    assert!(aborted.success());
    let status = child.wait().unwrap();
    assert_eq!((status.signal(), status.core_dumped()), (Some(6), false), "{status:?}");
}
