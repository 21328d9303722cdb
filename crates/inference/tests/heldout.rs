//! The devnet's model answers what it was never shown, through the backend that serves it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use lcai_inference::{Backend, EmbeddedBackend, EmbeddedModel, GenerateOptions, GenerateRequest};
use lcai_primitives::prompt::ChatInput;
use std::path::PathBuf;
use tokio::sync::mpsc;

#[derive(serde::Deserialize)]
struct Row {
    prompt: String,
    answer: String,
}

/// Nine of ten, word for word. The number of every family is printed by the `heldout` example.
#[tokio::test]
async fn nine_of_ten_held_out_prompts_are_answered_right() {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../devnet/model"));
    let rows = std::fs::read_to_string(folder.join("heldout.jsonl")).unwrap();
    let rows: Vec<Row> = rows.lines().take(200).map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 200);
    let model = EmbeddedModel { name: "lcai-tiny".into(), path: folder.join("lcai-tiny.gguf"), digest: None };
    let backend = EmbeddedBackend::load(&[model], 1).unwrap();
    let mut right = 0;
    for row in &rows {
        let request = GenerateRequest {
            model: "lcai-tiny".into(),
            input: ChatInput::Generate(row.prompt.clone()),
            max_tokens: 64,
            options: GenerateOptions::default(),
        };
        // Nobody reads the pieces.
        let (deltas, _) = mpsc::channel(1);
        let said = backend.generate(request, deltas).await;
        right += usize::from(said.is_ok_and(|answer| *answer.text == row.answer));
    }
    println!("{right} of {} right", rows.len());
    assert!(right * 10 >= rows.len() * 9, "{right} of {}", rows.len());
}
