//! JSON schemas of what crosses the wire, from the declarations of the types and what serde is told of them.

use crate::{docs, methods::generic};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use syn::{Fields, Item, Meta, Token, Type, parse::Parser, punctuated::Punctuated};

/// Types by name, and which of them the methods use.
#[derive(Default)]
pub(crate) struct Schemas {
    /// The declaration, and whether its numbers are quantities although its fields do not say so.
    declared: BTreeMap<String, (Item, bool)>,
    used: BTreeSet<String>,
}

impl Schemas {
    /// Takes a file's types. `in_hex`: their numbers are quantities although their fields do not say so.
    pub(crate) fn read(&mut self, file: syn::File, in_hex: bool) {
        for item in file.items {
            let name = match &item {
                // The frame's members are those of the struct that serde reads and writes.
                Item::Struct(item) if item.ident == "Frame" => continue,
                Item::Struct(item) if item.ident == "WireFrame" => "Frame".into(),
                Item::Struct(item) => item.ident.to_string(),
                Item::Enum(item) => item.ident.to_string(),
                Item::Macro(item) if item.mac.path.is_ident("chain_params") => "ChainParams".into(),
                _ => continue,
            };
            self.declared.insert(name, (item, in_hex));
        }
    }

    /// The schema of a parameter's or result's type.
    pub(crate) fn of(&mut self, ty: &Type) -> Value {
        let schema = of_type(ty, true);
        self.mark(&schema);
        schema
    }

    /// Everything that is referred to.
    pub(crate) fn used(&self) -> Map<String, Value> {
        let known = |name: &String| (name.clone(), self.lookup(name));
        self.used.iter().map(known).collect()
    }

    fn lookup(&self, name: &str) -> Value {
        let declared = || match self.declared.get(name) {
            Some((Item::Struct(item), in_hex)) => object(&item.attrs, &item.fields, *in_hex),
            Some((Item::Enum(item), in_hex)) => choice(item, *in_hex),
            Some((Item::Macro(item), _)) => chain_params(&item.mac.tokens),
            _ => panic!("no declaration of {name} was read"),
        };
        basic(name).unwrap_or_else(declared)
    }

    fn mark(&mut self, schema: &Value) {
        match schema {
            Value::Array(items) => items.iter().for_each(|item| self.mark(item)),
            Value::Object(members) => {
                if let Some(name) = members.get("$ref").and_then(Value::as_str) {
                    let name = name.rsplit('/').next().unwrap().to_owned();
                    if self.used.insert(name.clone()) {
                        self.mark(&self.lookup(&name));
                    }
                }
                members.values().for_each(|member| self.mark(member));
            }
            _ => {}
        }
    }
}

fn text(pattern: &str, description: &str) -> Value {
    json!({ "type": "string", "pattern": pattern, "description": description })
}

/// The values everything is made of.
fn basic(name: &str) -> Option<Value> {
    Some(match name {
        "Quantity" => {
            text("^0x(0|[1-9a-f][0-9a-f]{0,15})$", "A number below 2^64 in hex without leading zeros.")
        }
        "Amount" => {
            text("^0x(0|[1-9a-f][0-9a-f]{0,63})$", "A number below 2^256 in hex without leading zeros.")
        }
        "Address" => text("^0x[0-9a-fA-F]{40}$", "An account or contract, 20 bytes."),
        "Hash" => text("^0x[0-9a-f]{64}$", "32 bytes."),
        "Bytes" => text("^0x([0-9a-f]{2})*$", "Bytes."),
        _ => return None,
    })
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn of_type(ty: &Type, in_hex: bool) -> Value {
    if let Some(inner) = generic("Option", ty) {
        return json!({ "anyOf": [of_type(&inner, in_hex), { "type": "null" }] });
    }
    if let Some(inner) = generic("Vec", ty) {
        // Bytes are `Bytes`; a `Vec<u8>` is a payload, which serde writes in base64.
        return json!({ "type": "array", "items": of_type(&inner, in_hex) });
    }
    if generic("Box", ty).is_some() {
        return json!({});
    }
    let name = match ty {
        Type::Tuple(unit) if unit.elems.is_empty() => return json!({ "type": "null" }),
        Type::Path(path) => path.path.segments.last().unwrap().ident.to_string(),
        _ => panic!("a type without a name"),
    };
    match name.as_str() {
        "bool" => json!({ "type": "boolean" }),
        "String" => json!({ "type": "string" }),
        "Payload" => json!({ "type": ["string", "null"], "contentEncoding": "base64" }),
        "u64" | "u32" if !in_hex => json!({ "type": "integer", "minimum": 0 }),
        "u64" | "u32" | "Quantity" | "JobId" | "SessionId" => reference("Quantity"),
        "U256" => reference("Amount"),
        "B256" | "TxHash" | "ModelId" => reference("Hash"),
        _ => reference(&name),
    }
}

/// What serde is told of a field or type, as `key` or `key = "value"`.
fn serde(attrs: &[syn::Attribute]) -> BTreeMap<String, String> {
    let lists = attrs.iter().filter(|attr| attr.path().is_ident("serde"));
    let metas =
        lists.flat_map(|attr| attr.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated).unwrap());
    let pair = |meta: Meta| {
        let value = match &meta {
            Meta::NameValue(syn::MetaNameValue {
                value: syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }),
                ..
            }) => text.value(),
            _ => String::new(),
        };
        (meta.path().get_ident().unwrap().to_string(), value)
    };
    metas.map(pair).collect()
}

fn renamed(name: &str, rule: Option<&String>) -> String {
    match rule.map(String::as_str) {
        Some("camelCase") => camel_case(name),
        Some("lowercase") => name.to_lowercase(),
        _ => name.to_owned(),
    }
}

/// `a_name` and `AName` as `aName`.
pub(crate) fn camel_case(name: &str) -> String {
    let mut upper = false;
    let mut out = String::new();
    for c in name.chars() {
        match c {
            '_' => upper = true,
            c if out.is_empty() => out.extend(c.to_lowercase()),
            c if std::mem::take(&mut upper) => out.extend(c.to_uppercase()),
            c => out.push(c),
        }
    }
    out
}

fn object(attrs: &[syn::Attribute], fields: &Fields, in_hex: bool) -> Value {
    let rule = serde(attrs).remove("rename_all");
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for field in fields {
        let told = serde(&field.attrs);
        let Some(ident) = &field.ident else { return json!({ "type": "string" }) };
        let name = told.get("rename").cloned().unwrap_or_else(|| renamed(&ident.to_string(), rule.as_ref()));
        let with = told.get("with").map(|path| path.trim_start_matches("crate::"));
        let mut schema = match with {
            None => of_type(&field.ty, in_hex),
            Some("quantity") => reference("Quantity"),
            Some("quantity::option") => json!({ "anyOf": [reference("Quantity"), { "type": "null" }] }),
            Some("quantity::list") => json!({ "type": "array", "items": reference("Quantity") }),
            Some("quantity::number") => json!({ "type": "integer", "minimum": 0 }),
            Some("quantity::nested") => of_type(&field.ty, true),
            Some(other) => panic!("serde(with = {other:?}) has no schema"),
        };
        let description = docs(&field.attrs).replace('\n', " ");
        if let Some(values) = listed(&description).filter(|_| schema == json!({ "type": "string" })) {
            schema["enum"] = values.into();
        }
        if !description.is_empty() {
            // Beside a reference other members are ignored.
            schema = match schema {
                Value::Object(members) if members.contains_key("$ref") => json!({ "allOf": [members] }),
                schema => schema,
            };
            schema["description"] = description.into();
        }
        if generic("Option", &field.ty).is_none() && !told.contains_key("default") {
            required.push(name.clone());
        }
        properties.insert(name, schema);
    }
    described(attrs, json!({ "type": "object", "required": required, "properties": properties }))
}

/// The values of a text, where its description begins with them: "`"a"`, `"b"` (why) or `"c"`."
fn listed(description: &str) -> Option<Vec<String>> {
    let values: Vec<String> = description
        .strip_prefix("`\"")?
        .split("`\"")
        .filter_map(|rest| Some(rest.split_once("\"`")?.0.into()))
        .collect();
    (values.len() > 1).then_some(values)
}

fn choice(item: &syn::ItemEnum, in_hex: bool) -> Value {
    let rule = serde(&item.attrs).remove("rename_all");
    if item.variants.iter().all(|variant| matches!(variant.fields, Fields::Unit)) {
        let names: Vec<String> =
            item.variants.iter().map(|v| renamed(&v.ident.to_string(), rule.as_ref())).collect();
        return described(&item.attrs, json!({ "type": "string", "enum": names }));
    }
    let variants: Vec<Value> = item.variants.iter().map(|v| object(&v.attrs, &v.fields, in_hex)).collect();
    described(&item.attrs, json!({ "anyOf": variants }))
}

fn described(attrs: &[syn::Attribute], mut schema: Value) -> Value {
    let text = docs(attrs).replace('\n', " ");
    if !text.is_empty() {
        schema["description"] = text.into();
    }
    schema
}

/// `chain_params! { /// doc  field: type = getter, … }`.
fn chain_params(tokens: &proc_macro2::TokenStream) -> Value {
    struct Param {
        attrs: Vec<syn::Attribute>,
        name: syn::Ident,
        ty: Type,
    }
    impl syn::parse::Parse for Param {
        fn parse(input: syn::parse::ParseStream<'_>) -> syn::Result<Self> {
            let attrs = input.call(syn::Attribute::parse_outer)?;
            let name = input.parse()?;
            input.parse::<Token![:]>()?;
            let ty = input.parse()?;
            input.parse::<Token![=]>()?;
            input.parse::<syn::Ident>()?;
            Ok(Self { attrs, name, ty })
        }
    }
    let params = Punctuated::<Param, Token![,]>::parse_terminated.parse2(tokens.clone()).unwrap();
    let property = |param: &Param| {
        let description = docs(&param.attrs).replace('\n', " ");
        let schema = json!({ "allOf": [of_type(&param.ty, true)], "description": description });
        (camel_case(&param.name.to_string()), schema)
    };
    let properties: Map<String, Value> = params.iter().map(property).collect();
    let required: Vec<&String> = properties.keys().collect();
    json!({
        "type": "object",
        "description": "AIConfig's values. Durations are seconds, rates are basis points, amounts are wei.",
        "required": required,
        "properties": properties,
    })
}
