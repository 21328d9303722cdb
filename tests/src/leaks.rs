//! Looking for secrets where they must not be.

use base64::{Engine, engine::general_purpose::STANDARD};
use parking_lot::Mutex;
use std::{io::Write, sync::Arc};
use tracing_subscriber::fmt::MakeWriter;

/// A secret as it could be written: raw, hex in both cases, base64 at each of the three alignments.
pub fn forms(secret: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut forms = vec![
        ("raw bytes".to_owned(), secret.to_vec()),
        ("hex".to_owned(), hex::encode(secret).into_bytes()),
        ("upper hex".to_owned(), hex::encode_upper(secret).into_bytes()),
    ];
    for shift in 0..3usize {
        let padded = [vec![0; shift], secret.to_vec()].concat();
        let encoded = STANDARD.encode(padded);
        // What the neighbours decide is left out at both ends.
        let from = (shift * 8).div_ceil(6);
        let to = (shift + secret.len()) * 8 / 6;
        forms.push((format!("base64 shifted by {shift}"), encoded.as_bytes()[from..to].to_vec()));
    }
    forms
}

/// Whether the bytes are among the others.
pub fn find(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Keeps every log line.
#[derive(Debug, Clone, Default)]
pub struct Logs(Arc<Mutex<Vec<u8>>>);

impl Logs {
    /// Everything so far.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().clone()
    }
}

impl Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Logs {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// The limits on the size of a process's core dumps, soft and hard, bytes.
pub fn core_dump_limits(pid: u32) -> [String; 2] {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    let values: Vec<&str> = line.split_whitespace().take(2).collect();
    [values[0].to_owned(), values[1].to_owned()]
}
