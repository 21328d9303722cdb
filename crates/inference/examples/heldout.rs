//! Asks a model the held-out prompts and prints how many answers are right:
//! `cargo run -p lcai-inference --release --example heldout [model.gguf [heldout.jsonl]]`.
#![allow(clippy::print_stdout, clippy::expect_used)]

use lcai_inference::{Backend, EmbeddedBackend, EmbeddedModel, GenerateOptions, GenerateRequest};
use lcai_primitives::prompt::ChatInput;
use std::{collections::BTreeMap, path::PathBuf};
use tokio::sync::mpsc;

#[derive(serde::Deserialize)]
struct Row {
    prompt: String,
    answer: String,
    family: String,
}

#[tokio::main]
async fn main() {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../devnet/model"));
    let mut arguments = std::env::args().skip(1).map(PathBuf::from);
    let path = arguments.next().unwrap_or_else(|| folder.join("lcai-tiny.gguf"));
    let rows = std::fs::read_to_string(arguments.next().unwrap_or_else(|| folder.join("heldout.jsonl")))
        .expect("the held-out list can be read");
    let rows: Vec<Row> =
        rows.lines().map(|line| serde_json::from_str(line).expect("a line is a row")).collect();
    let model = EmbeddedModel { name: "model".to_owned(), path, digest: None };
    let backend = EmbeddedBackend::load(&[model], 1).expect("the model loads");

    let mut families: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for row in &rows {
        let (deltas, _) = mpsc::channel(1);
        let request = GenerateRequest {
            model: "model".to_owned(),
            input: ChatInput::Generate(row.prompt.clone()),
            max_tokens: 64,
            options: GenerateOptions::default(),
        };
        let said = backend.generate(request, deltas).await.map(|g| g.text.to_string()).unwrap_or_default();
        let family = families.entry(&row.family).or_default();
        family.1 += 1;
        if said == row.answer {
            family.0 += 1;
        } else {
            println!("  {:?}: {said:?}, not {:?}", row.prompt, row.answer);
        }
    }
    for (family, (right, asked)) in &families {
        println!("{family:16} {right:3} of {asked:3}");
    }
    let right: usize = families.values().map(|f| f.0).sum();
    println!(
        "{right} of {} held-out prompts right ({:.1} %)",
        rows.len(),
        100.0 * right as f64 / rows.len() as f64
    );
}
