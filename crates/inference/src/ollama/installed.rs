//! What Ollama has under a model's name (`/api/show`): the weights, and what its Modelfile sets.

use super::{Body, OllamaBackend, accept};
use crate::InferenceError;
use serde::Deserialize;
use std::collections::BTreeMap;
use tokio::time::timeout;

const SHOW: &str = "/api/show";
/// Longest description; it names every tensor.
const MAX_SHOW: usize = 16 << 20;

/// A model as Ollama has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OllamaModel {
    /// Ollama's name of it, with the tag.
    pub tag: String,
    /// SHA-256 of its manifest, 64 lowercase hex digits: weights, template and parameters.
    pub digest: String,
    /// SHA-256 of its GGUF file, 64 lowercase hex digits; `None` where Ollama names none.
    pub weights: Option<String>,
    /// What its Modelfile sets, e.g. `num_ctx` to `512`; `stop` can have several values.
    pub parameters: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Shown {
    modelfile: String,
    parameters: String,
}

impl OllamaBackend {
    /// What Ollama has under a name of the chain.
    ///
    /// # Errors
    /// When Ollama does not answer, or lacks the model.
    pub async fn installed(&self, model: &str) -> Result<OllamaModel, InferenceError> {
        let tag = self.tag(model);
        let listed = self.tags().await?.into_iter().find(|listed| listed.name == tag);
        let digest = listed.ok_or_else(|| InferenceError::ModelMissing(tag.clone()))?.digest;
        let request = async {
            let body = serde_json::json!({ "model": tag });
            let response = self.http.post(self.url(SHOW)).json(&body).send().await;
            let response = accept(SHOW, response.map_err(|_| self.unreachable())?).await?;
            Body::new(self, SHOW, response).whole(MAX_SHOW).await
        };
        let wait = self.config.connect_timeout + self.config.idle_timeout;
        let body = timeout(wait, request).await.map_err(|_| InferenceError::Stalled(wait))??;
        let shown: Shown = serde_json::from_slice(&body)
            .map_err(|_| InferenceError::Malformed { path: SHOW, reason: "not a description of a model" })?;
        Ok(OllamaModel {
            tag,
            digest,
            weights: weights(&shown.modelfile),
            parameters: parameters(&shown.parameters),
        })
    }
}

impl OllamaModel {
    /// Whether `digest` is that of the manifest or of the GGUF file, and the parameters have these values.
    pub(super) fn check(
        &self,
        model: &str,
        digest: Option<&String>,
        parameters: Option<&BTreeMap<String, String>>,
    ) -> Result<(), InferenceError> {
        if let Some(expected) = digest {
            let known = [Some(&self.digest), self.weights.as_ref()];
            if !known.into_iter().flatten().any(|digest| digest.eq_ignore_ascii_case(expected)) {
                return Err(InferenceError::DigestMismatch {
                    model: model.to_owned(),
                    expected: expected.clone(),
                    found: self.weights.as_ref().unwrap_or(&self.digest).clone(),
                });
            }
        }
        for (parameter, expected) in parameters.into_iter().flatten() {
            let found = self.parameters.get(parameter).map(Vec::as_slice).unwrap_or_default();
            if found != [expected.as_str()] {
                return Err(InferenceError::ParameterMismatch {
                    model: model.to_owned(),
                    parameter: parameter.clone(),
                    expected: expected.clone(),
                    found: found.join(", "),
                });
            }
        }
        Ok(())
    }
}

/// The digest in a Modelfile's `FROM …/blobs/sha256-DIGEST`.
fn weights(modelfile: &str) -> Option<String> {
    let file = modelfile.lines().find_map(|line| line.strip_prefix("FROM "))?;
    let digest = file.rsplit_once("sha256-")?.1.trim();
    let is_digest = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_digest.then(|| digest.to_ascii_lowercase())
}

/// A parameter a line, `NAME VALUE`; texts are quoted.
fn parameters(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut parameters = BTreeMap::<String, Vec<String>>::new();
    for (name, value) in text.lines().filter_map(|line| line.split_once(char::is_whitespace)) {
        let value = value.trim();
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.to_owned());
        parameters.entry(name.to_owned()).or_default().push(value);
    }
    parameters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_as_ollama_writes_them() {
        let text = "num_ctx                        512\nstop                           \"<|im_end|>\"\n\
                    stop                           \"a \\\"b\\\"\"\ntemperature                    0";
        let expected =
            [("num_ctx", vec!["512"]), ("stop", vec!["<|im_end|>", "a \"b\""]), ("temperature", vec!["0"])];
        let expected = expected.map(|(name, values)| {
            (name.to_owned(), values.into_iter().map(str::to_owned).collect::<Vec<_>>())
        });
        assert_eq!(parameters(text), BTreeMap::from(expected));
        assert!(parameters("").is_empty());
    }

    #[test]
    fn the_weights_are_the_file_that_the_model_is_from() {
        let digest = "c590a3648cc7d0f3ce74d5a0495d72fe65719505f9d0524540fc079bb97ba04d";
        let modelfile =
            format!("# FROM lcai-tiny:latest\n\nFROM /o/models/blobs/sha256-{digest}\nTEMPLATE x\n");
        assert_eq!(weights(&modelfile).as_deref(), Some(digest));
        assert_eq!(weights("FROM lcai-tiny:latest\n"), None);
        assert_eq!(weights("FROM /o/models/blobs/sha256-12\n"), None);
    }
}
