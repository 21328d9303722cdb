//! The OpenRPC documents are made from the text of the namespaces, so that they say what the code does. These tests fail
//! when a committed one is stale; `LCAI_BLESS=1 cargo test -p lcai-rpc --test openrpc` rewrites them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod methods;
mod schema;

use serde_json::json;
use std::{fs, path::PathBuf};

/// A source file by its path from the workspace's `crates` folder.
fn source(path: &str) -> syn::File {
    let crates = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    syn::parse_file(&fs::read_to_string(crates.join(path)).unwrap()).unwrap()
}

/// A doc comment as one text; paragraphs are told apart by empty lines.
fn docs(attrs: &[syn::Attribute]) -> String {
    let line = |attr: &syn::Attribute| match &attr.meta {
        syn::Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    };
    let lines: Vec<String> = attrs.iter().filter_map(line).collect();
    lines.iter().map(|l| l.trim()).collect::<Vec<_>>().join("\n")
}

/// A document over the namespaces of one file.
fn document(path: &str, title: &str, description: &str) -> String {
    let errors = methods::errors(&source("rpc/src/error.rs"));
    let mut schemas = schema::Schemas::default();
    for (path, in_hex) in [
        ("rpc/src/types.rs", false),
        ("rpc/src/verdicts.rs", false),
        ("primitives/src/frames.rs", false),
        ("primitives/src/eip712.rs", false),
        // Their numbers become quantities on the way (`quantity::nested`).
        ("primitives/src/contracts.rs", true),
        ("primitives/src/params.rs", true),
    ] {
        schemas.read(source(path), in_hex);
    }
    let methods = methods::methods(&source(path), &errors, &mut schemas);
    let document = json!({
        "openrpc": "1.3.2",
        "info": {
            "title": title,
            "version": lcai_rpc::openrpc::API_VERSION,
            "description": description,
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "methods": methods,
        "components": { "schemas": schemas.used(), "errors": errors },
    });
    format!("{}\n", serde_json::to_string_pretty(&document).unwrap())
}

/// The committed document is `text`, and so is the one in the program.
fn holds(name: &str, text: &str, built_in: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("LCAI_BLESS").is_some() {
        fs::write(&path, text).unwrap();
        return;
    }
    assert!(
        fs::read_to_string(&path).unwrap() == text,
        "crates/rpc/{name} is stale: LCAI_BLESS=1 cargo test -p lcai-rpc --test openrpc"
    );
    assert_eq!(text, built_in);
}

#[test]
fn the_committed_document_is_what_the_code_says() {
    let text = document(
        "rpc/src/api.rs",
        "lcai",
        "Sessions, streamed answers and read-outs of a LightChain AI node. Quantities are 0x hex without leading zeros; \
         plain numbers are read too. Frames have the live network's shape.",
    );
    holds("openrpc.json", &text, lcai_rpc::openrpc::DOCUMENT);
}

#[test]
fn the_operators_document_is_what_the_code_says() {
    let text = document(
        "rpc/src/operator.rs",
        "lcaiOperator",
        "What only the operator of a LightChain AI node may ask, on its authenticated server.",
    );
    holds("openrpc-operator.json", &text, lcai_rpc::openrpc::OPERATOR_DOCUMENT);
}
