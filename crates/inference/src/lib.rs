//! Model backends (Ollama, embedded) and embedders behind one trait each
