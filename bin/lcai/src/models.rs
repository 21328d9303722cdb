//! The models a command works with.

use crate::{ask::DEFAULT_MODEL, exit::UsageError};
use clap::Args;
use lcai_inference::{Backend, ModelSource, ModelSourceError};
use std::sync::Arc;

/// Where the models run: in this process, or in an Ollama.
#[derive(Debug, Clone, Args)]
pub struct ModelArgs {
    /// Model that runs in this process: NAME=FILE.gguf; may be repeated
    #[arg(long, value_name = "NAME=FILE", conflicts_with = "ollama")]
    pub gguf: Vec<String>,
    /// Ollama that runs the models, e.g. http://127.0.0.1:11434
    #[arg(long, value_name = "URL")]
    pub ollama: Option<String>,
    /// Names of the models that Ollama runs; may be repeated
    #[arg(long, value_name = "NAME", default_value = DEFAULT_MODEL)]
    pub model: Vec<String>,
}

impl ModelArgs {
    /// Loads the files, or checks that Ollama has the models; gives their names too.
    ///
    /// # Errors
    /// When none is named, or one cannot be had.
    pub async fn open(&self) -> eyre::Result<(Arc<dyn Backend>, Vec<String>)> {
        let source = ModelSource::new(self.ollama.as_deref(), &self.gguf, &self.model);
        let source = source.map_err(|error| match error {
            ModelSourceError::Malformed(_) => UsageError(format!("--gguf {error}")),
            other => UsageError(format!(
                "no model: {other}; give --gguf NAME=FILE, or --ollama URL and --model NAME"
            )),
        })?;
        let names = source.names();
        Ok((source.open(1).await?, names))
    }
}
