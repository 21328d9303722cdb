//! Where models come from, as command lines and configuration files name it.

use crate::{Backend, EmbeddedBackend, EmbeddedModel, InferenceError, OllamaBackend, OllamaConfig};
use std::sync::Arc;
use thiserror::Error;

/// Why settings name no models. The caller says which flags they were.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ModelSourceError {
    /// Neither files nor a server.
    #[error("neither a GGUF file nor an Ollama server is given")]
    None,
    /// Files and a server.
    #[error("both GGUF files and an Ollama server are given")]
    Both,
    /// A server, and none of its models.
    #[error("none of the Ollama server's models is named")]
    Unnamed,
    /// Not a name with a file.
    #[error("{0}: expected NAME=FILE")]
    Malformed(String),
}

/// Models by where they run.
#[derive(Debug, Clone)]
pub enum ModelSource {
    /// Files that this process runs.
    Files(Vec<EmbeddedModel>),
    /// A running Ollama.
    Ollama {
        /// Its base address.
        url: String,
        /// The models, by the chain's names.
        names: Vec<String>,
    },
}

impl ModelSource {
    /// Files, each as `NAME=FILE`, or the models `names` of the Ollama at an address.
    ///
    /// # Errors
    /// When that is nothing, both, or not of this form.
    pub fn new(ollama: Option<&str>, files: &[String], names: &[String]) -> Result<Self, ModelSourceError> {
        match (ollama, files) {
            (None, []) => Err(ModelSourceError::None),
            (Some(_), [_, ..]) => Err(ModelSourceError::Both),
            (Some(_), []) if names.is_empty() => Err(ModelSourceError::Unnamed),
            (Some(url), []) => Ok(Self::Ollama { url: url.to_owned(), names: names.to_vec() }),
            (None, files) => Ok(Self::Files(files.iter().map(|spec| file(spec)).collect::<Result<_, _>>()?)),
        }
    }

    /// The chain's names of the models.
    pub fn names(&self) -> Vec<String> {
        match self {
            Self::Files(models) => models.iter().map(|model| model.name.clone()).collect(),
            Self::Ollama { names, .. } => names.clone(),
        }
    }

    /// Loads the files, or checks that the server has the models. `parallel`: answers computed at once in this process.
    ///
    /// # Errors
    /// When a file cannot be loaded, or the server lacks a model.
    pub async fn open(self, parallel: usize) -> Result<Arc<dyn Backend>, InferenceError> {
        match self {
            Self::Files(models) => {
                let load = tokio::task::spawn_blocking(move || EmbeddedBackend::load(&models, parallel));
                let backend =
                    load.await.map_err(|_| InferenceError::Failed("loading panicked".to_owned()))??;
                Ok(Arc::new(backend))
            }
            Self::Ollama { url, names } => {
                // By these it knows `NAME:latest` in the server's list as the chain's `NAME`.
                let tags = names.iter().map(|name| (name.clone(), name.clone())).collect();
                let backend = OllamaBackend::new(OllamaConfig { url, tags, ..OllamaConfig::default() })?;
                backend.check(&names).await?;
                Ok(Arc::new(backend))
            }
        }
    }
}

fn file(spec: &str) -> Result<EmbeddedModel, ModelSourceError> {
    let parts = spec.split_once('=').filter(|(name, path)| !name.is_empty() && !path.is_empty());
    let (name, path) = parts.ok_or_else(|| ModelSourceError::Malformed(spec.to_owned()))?;
    Ok(EmbeddedModel { name: name.to_owned(), path: path.into(), digest: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn files_or_a_server_and_not_both() {
        let url = Some("http://127.0.0.1:11434");
        let files = ModelSource::new(None, &texts(&["a=x.gguf", "b=dir=y.gguf"]), &[]).unwrap();
        assert_eq!(files.names(), ["a", "b"]);
        let ModelSource::Files(models) = files else { panic!("files") };
        assert_eq!(models[1].path, std::path::Path::new("dir=y.gguf"));
        assert_eq!(ModelSource::new(url, &[], &texts(&["llama3-8b"])).unwrap().names(), ["llama3-8b"]);

        let error = |url, files: &[&str]| ModelSource::new(url, &texts(files), &[]).unwrap_err();
        assert_eq!(error(None, &[]), ModelSourceError::None);
        assert_eq!(error(url, &[]), ModelSourceError::Unnamed);
        assert_eq!(error(url, &["a=x"]), ModelSourceError::Both);
        for spec in ["a", "=x", "a="] {
            assert_eq!(error(None, &[spec]), ModelSourceError::Malformed(spec.to_owned()));
        }
    }
}
