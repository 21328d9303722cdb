//! Methods and errors of the namespace.

use crate::{docs, schema::Schemas};
use serde_json::{Map, Value, json};
use syn::{Expr, FnArg, GenericArgument, Item, Lit, Pat, PathArguments, ReturnType, TraitItemFn, Type};

/// Errors that any call may be refused with; the last where calls may be handed on to another node.
const ANY: [&str; 4] = ["InvalidParams", "QuotaExceeded", "Internal", "UpstreamUnavailable"];

/// `LcaiError`'s variants, from their doc comments: "-39001: the model is not registered".
pub(crate) fn errors(file: &syn::File) -> Map<String, Value> {
    let found = file.items.iter().find_map(|item| match item {
        Item::Enum(found) if found.ident == "LcaiError" => Some(found),
        _ => None,
    });
    let entry = |variant: &syn::Variant| {
        let text = docs(&variant.attrs).replace('\n', " ");
        let (code, message) = text.split_once(": ").expect("the doc comment begins with the code");
        (variant.ident.to_string(), json!({ "code": code.parse::<i32>().unwrap(), "message": message }))
    };
    found.unwrap().variants.iter().map(entry).collect()
}

/// The methods and subscriptions of a file's namespaces, in its order.
pub(crate) fn methods(file: &syn::File, errors: &Map<String, Value>, schemas: &mut Schemas) -> Vec<Value> {
    let apis = file.items.iter().filter_map(|item| match item {
        Item::Trait(found) => Some((namespace(found)?, found)),
        _ => None,
    });
    apis.flat_map(|(namespace, api)| of_trait(&namespace, api, errors, schemas)).collect()
}

/// What `#[rpc(namespace = "…")]` says of a trait.
fn namespace(api: &syn::ItemTrait) -> Option<String> {
    let rpc = api.attrs.iter().find(|attr| attr.path().is_ident("rpc"))?;
    let mut found = None;
    rpc.parse_nested_meta(|meta| {
        if meta.path.is_ident("namespace") {
            found = Some(meta.value()?.parse::<syn::LitStr>()?.value());
        }
        Ok(())
    })
    .unwrap();
    found
}

fn of_trait(
    namespace: &str,
    api: &syn::ItemTrait,
    errors: &Map<String, Value>,
    schemas: &mut Schemas,
) -> Vec<Value> {
    let mut found = Vec::new();
    for item in &api.items {
        let syn::TraitItem::Fn(method) = item else { continue };
        let attribute = |name| method.attrs.iter().find(|attr| attr.path().is_ident(name));
        if let Some(attr) = attribute("method") {
            let (name, aliases) = method_names(attr);
            let result = ok_type(&method.sig.output);
            let result = json!({ "name": "result", "schema": schemas.of(&result) });
            for name in aliases.into_iter().chain([format!("{namespace}_{name}")]) {
                found.push(entry(method, &name, result.clone(), errors, schemas));
            }
        } else if let Some(attr) = attribute("subscription") {
            found.extend(subscription(namespace, method, attr, errors, schemas));
        }
    }
    found
}

fn entry(
    method: &TraitItemFn,
    name: &str,
    result: Value,
    errors: &Map<String, Value>,
    schemas: &mut Schemas,
) -> Value {
    let text = docs(&method.attrs);
    let mut paragraphs: Vec<String> = text.split("\n\n").map(|p| p.replace('\n', " ")).collect();
    let named = paragraphs.last().and_then(|last| last.strip_prefix("Errors: ").map(str::to_owned));
    let named = named.inspect(|_| drop(paragraphs.pop())).unwrap_or_default();
    let named = named.trim_end_matches('.').split(", ").filter(|name| !name.is_empty());
    let refs: Vec<Value> = named
        .chain(ANY)
        .filter(|error| *error != "UpstreamUnavailable" || name.starts_with("lcai_"))
        .map(|error| {
            assert!(errors.contains_key(error), "{name} names an error that does not exist: {error}");
            json!({ "$ref": format!("#/components/errors/{error}") })
        })
        .collect();
    let description = paragraphs.join("\n");
    let summary = description.split_inclusive(". ").next().unwrap_or_default().trim().to_owned();
    json!({
        "name": name,
        "summary": summary,
        "description": description,
        "paramStructure": "by-position",
        "params": params(method, schemas),
        "result": result,
        "errors": refs,
    })
}

fn params(method: &TraitItemFn, schemas: &mut Schemas) -> Vec<Value> {
    let of = |arg: &FnArg| match arg {
        FnArg::Receiver(_) => None,
        FnArg::Typed(arg) => Some(arg.clone()),
    };
    let args: Vec<syn::PatType> = method.sig.inputs.iter().filter_map(of).collect();
    let of = |arg: syn::PatType| {
        let Pat::Ident(name) = *arg.pat else { panic!("a parameter without a name") };
        let name = crate::schema::camel_case(&name.ident.to_string());
        let inner = generic("Option", &arg.ty);
        let schema = schemas.of(inner.as_ref().unwrap_or(&arg.ty));
        json!({ "name": name, "required": inner.is_none(), "schema": schema })
    };
    args.into_iter().map(of).collect()
}

/// A subscription is a method that gives an id, notifications, and a method that ends it.
fn subscription(
    namespace: &str,
    method: &TraitItemFn,
    attr: &syn::Attribute,
    errors: &Map<String, Value>,
    schemas: &mut Schemas,
) -> [Value; 2] {
    let tokens = attr.meta.require_list().unwrap().tokens.to_string();
    let text = |after: &str| {
        let rest = tokens.split_once(after).unwrap().1.trim_start();
        rest.strip_prefix('"').unwrap().split('"').next().unwrap().to_owned()
    };
    let item = tokens.split_once("item =").unwrap().1.split(',').next().unwrap();
    let item: Type = syn::parse_str(item).unwrap();
    let id = json!({ "name": "subscription", "schema": { "type": "string" } });
    let mut subscribe =
        entry(method, &format!("{namespace}_{}", text("name =")), id.clone(), errors, schemas);
    let end = format!("{namespace}_{}", text("unsubscribe ="));
    subscribe["x-notification"] = json!({
        "method": format!("{namespace}_{}", text("=>")),
        "params": { "subscription": { "type": "string" }, "result": schemas.of(&item) },
        "unsubscribe": end,
    });
    let end = json!({
        "name": end,
        "summary": "Ends a subscription.",
        "paramStructure": "by-position",
        "params": [{ "name": "subscription", "required": true, "schema": id["schema"] }],
        "result": { "name": "ended", "schema": { "type": "boolean" } },
    });
    [subscribe, end]
}

fn method_names(attr: &syn::Attribute) -> (String, Vec<String>) {
    let (mut name, mut aliases) = (String::new(), Vec::new());
    attr.parse_nested_meta(|meta| {
        let text = |expr: &Expr| match expr {
            Expr::Lit(syn::ExprLit { lit: Lit::Str(text), .. }) => text.value(),
            _ => panic!("a name that is not a text"),
        };
        match meta.value()?.parse::<Expr>()? {
            Expr::Array(all) => aliases = all.elems.iter().map(text).collect(),
            one => name = text(&one),
        }
        Ok(())
    })
    .unwrap();
    (name, aliases)
}

/// `T` of `RpcResult<T>`.
fn ok_type(output: &ReturnType) -> Type {
    match output {
        ReturnType::Type(_, ty) => generic("RpcResult", ty).expect("a method gives an RpcResult"),
        ReturnType::Default => panic!("a method gives an RpcResult"),
    }
}

/// `T` of `wrapper<T>`.
pub(crate) fn generic(wrapper: &str, ty: &Type) -> Option<Type> {
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last()?;
    match &last.arguments {
        PathArguments::AngleBracketed(args) if last.ident == wrapper => match args.args.first()? {
            GenericArgument::Type(inner) => Some(inner.clone()),
            _ => None,
        },
        _ => None,
    }
}
